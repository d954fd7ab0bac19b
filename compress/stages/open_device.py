"""Opens the target of a run, whether it is this machine or not."""

from __future__ import annotations

from pathlib import Path

from compress.export.cuda import absence
from compress.profile.roofline import Roofline
from compress.stages.absent_device import AbsentDevice
from compress.stages.choose_target import open_present
from compress.stages.context import Run


def open_device(run: Run, scratch: Path) -> Run:
    """The run with its target opened, and the dense model on it.

    Args:
        run: gives model, target and options.
        scratch: directory to export the dense model into.

    Returns:
        The run on its device; of a target that names several, for the one that was chosen.

    Raises:
        TargetError: the target is this machine, but its runtime is missing; or it is elsewhere, and there is neither a
            profile nor a data sheet.
    """
    config, target = run.config, run.loaded.target
    reason = absence(target) if target.on_gpu else None
    if reason is None:
        if target.runtime == "onnxruntime-cuda" and target.cuda_graphs is None:
            run.info(
                "calls run without CUDA graphs; for calls of fixed shapes they can halve the time of small ones: "
                "[cuda_graphs] in a target's file (docs/gpu.md)"
            )
        return open_present(run, scratch)
    if config.profile is None:
        Roofline.of(target, target.precision if config.precision == "auto" else config.precision)
    run.info(
        f"warning: target '{target.name}' is not on this machine: {reason}. "
        + ("Latencies are predicted by the given profile" if config.profile else "Latencies are estimated")
        + f", and nothing is timed. To measure: `compress profile MODEL --target {target.name} --seq-len "
        f"{config.seq_len} --batch-size {config.batch_size} --output {target.name}.json` on the device, then pass "
        f"--profile {target.name}.json here"
    )
    return run.on(AbsentDevice.open(run, scratch))
