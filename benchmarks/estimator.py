"""Measures how well a data sheet ranks structures, on the cpu target with peak rates measured here.

    python benchmarks/estimator.py cpu.json
    python benchmarks/estimator.py h100.json --target h100 [--launch-overhead-us 11]

The profile cpu.json comes from `compress profile MODEL --target cpu --output cpu.json`. The benchmark measures the
rates that a data sheet would state (matrix products, copies, tiny operators; a few seconds), estimates the latency of
the profiled structures, and prints the rank correlation of estimates and measurements. For a device that is elsewhere,
give its target and a profile that was measured on it; the rates are then those of its data sheet.
"""

from __future__ import annotations

import argparse
import itertools
import platform
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import TensorProto, helper
from scipy.stats import spearmanr

from compress.core.plan import Widths
from compress.export.runtime import open_session
from compress.export.session import Session
from compress.profile.device import describe_device
from compress.profile.latency_profile import Profile
from compress.profile.roofline import estimate_profile
from compress.profile.target import Target, load_target
from compress.profile.timing import measure

_EDGE, _CHAIN, _MEGABYTES = 1024, 200, 64


def _session(nodes: list[object], shape: list[int], *more: object) -> Session:
    graph = helper.make_graph(
        nodes,
        "rates",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("a", *more)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return open_session(model.SerializeToString(), load_target("cpu"))


def _seconds(session: Session, feed: dict[str, np.ndarray], rounds: int = 20) -> float:
    # The fastest call is the peak rate: disturbances only make calls slower.
    return float(np.min(measure([lambda: session.run(feed)], rounds=rounds))) / 1e3


def measured_sheet() -> Target:
    """Returns the cpu target with rates measured in ONNX Runtime."""
    square = np.ones((_EDGE, _EDGE), np.float32)
    product = _session([helper.make_node("MatMul", ["a", "b"], ["y"])], [_EDGE, _EDGE], "b")
    flops = 2 * _EDGE**3 / _seconds(product, {"a": square, "b": square})

    large = np.ones((_MEGABYTES, 250_000), np.float32)
    copied = _seconds(_session([helper.make_node("Neg", ["a"], ["y"])], list(large.shape)), {"a": large}, 8)
    bandwidth = 2 * large.nbytes / copied

    tiny = np.ones((1, 8), np.float32)
    # Operators that graph optimizers do not remove.
    names = ["a", *(f"v{i}" for i in range(_CHAIN - 1)), "y"]
    chain = [
        helper.make_node(("Sin", "Cos")[i % 2], [before], [after])
        for i, (before, after) in enumerate(itertools.pairwise(names))
    ]
    launch = _seconds(_session(chain, [1, 8]), {"a": tiny}, 50) / _CHAIN

    cores = int(describe_device(load_target("cpu"))["threads"])
    return Target(
        name="cpu",
        device="this processor, rates measured",
        runtime="onnxruntime-cpu",
        peak_flops={"fp32": flops},
        memory_bandwidth_gb_s=bandwidth / 1e9,
        launch_overhead_us=launch * 1e6,
        processors=cores,
        # Rows and columns of one step of an AVX-512 kernel.
        tile_sizes=((12, 32), (1, 32)),
    )


def structures(profile: Profile) -> list[tuple[str, Widths, float]]:
    """Returns the structures that were timed for a profile: kind, widths, milliseconds."""
    shape = profile.shape
    found: list[tuple[str, Widths, float]] = []
    half = (max(1, round(shape.heads / 2)), min(profile.table.filters, key=lambda f: abs(f - shape.filters / 2)))
    for point in profile.points:
        heads, filters = (point.width, half[1]) if point.kind == "attention" else (half[0], point.width)
        found.append((point.kind, Widths((heads,) * shape.layers, (filters,) * shape.layers), point.total_ms))
    found += [("mixed", Widths(check.heads, check.filters), check.measured_ms) for check in profile.check]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "profile", type=Path, help="measured profile; of the cpu target in fp32 unless --target is given"
    )
    parser.add_argument("--target", help="take this target's data sheet instead of measuring rates here")
    parser.add_argument("--launch-overhead-us", type=float, help="instead of the data sheet's")
    given = parser.parse_args()
    profile = Profile.read(given.profile)
    sheet = load_target(given.target) if given.target else measured_sheet()
    if given.launch_overhead_us is not None:
        sheet = sheet.model_copy(update={"launch_overhead_us": given.launch_overhead_us})
    estimate = estimate_profile(profile.shape, sheet, profile.precision, profile.batch_size, profile.seq_len)
    assert sheet.peak_flops is not None
    peak = {str(precision): rate for precision, rate in sheet.peak_flops.items()}[profile.precision]
    print(
        f"rates: {peak / 1e9:.1f} GFLOP/s, {sheet.memory_bandwidth_gb_s:.1f} GB/s, "
        f"{sheet.launch_overhead_us:.1f} us per operator, {sheet.processors} processors\n"
    )
    print("| structures | number | rank correlation | estimated / measured, median |\n|---|---|---|---|")
    rows = structures(profile)
    for kind in ("attention", "ffn", "mixed", "all"):
        chosen = [(estimate.table.predict(widths), ms) for name, widths, ms in rows if kind in (name, "all")]
        if len(chosen) < 3:
            continue
        estimated, measured = np.array(chosen).T
        correlation = spearmanr(estimated, measured).statistic
        print(f"| {kind} | {len(chosen)} | {correlation:.3f} | {np.median(estimated / measured):.2f} |")
    dense = estimate.table.dense_ms / profile.table.dense_ms
    print(
        f"\ndense: estimated {estimate.table.dense_ms:.2f} ms, measured {profile.table.dense_ms:.2f} ms ({dense:.2f})"
    )
    print(
        f"profile of {profile.shape.layers} layers, batch {profile.batch_size}, length {profile.seq_len}, taken "
        f"{profile.date[:10]}; {platform.machine()}, onnxruntime {onnxruntime.__version__}"
    )


if __name__ == "__main__":
    main()
