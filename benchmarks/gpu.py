"""All that is worth knowing of a GPU that PyTorch computes on, in under ten minutes: tests first, then tables.

    python benchmarks/gpu.py --output gpu                            # writes gpu.json and gpu.md
    python benchmarks/gpu.py --model mpnet --data stsb --task sentence-similarity --output gpu
    python benchmarks/gpu.py --device cpu --tiny --no-tests --output try      # tries the script itself

Sections, each of which writes its figures before the next begins: the tests of ``tests/gpu``; seconds and peak memory
of each stage for a BERT-base with random weights on 2,048 examples of 128 tokens, twice, and whether both plans are
equal byte for byte; the factorisations in float64 and float32; the stages with TF32 products, with hidden states on the
processor, and within 8 GB; a real model, if one is given: by `compress run`, and its stages with float32 and TF32
products; BERT-large within 24 GB. Random weights tell time and memory, not accuracy. The section ``engines``
(``gpu_engines.py``) runs forms of our files, CUDA graphs and PyTorch side by side, within ``--engines-seconds``.
``--only engines`` runs the named sections alone.

A section that fails is noted and the next begins. One that would begin after ``--seconds`` is noted as not run. This is
a benchmark, not a test: it asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from gpu_engines import Engines, table

from compress.calibration.curvature import Curvature
from compress.calibration.obs import removal_order
from compress.core.progress import Silent
from compress.data.batches import Encoded
from compress.inputs.checkpoint import Checkpoint
from compress.inputs.compute import Compute, Need
from compress.inputs.devices import described
from compress.inputs.load import Loaded, load
from compress.inputs.torch_state import own_torch_state
from compress.models.encoder import encoder_of
from compress.options.run_config import make_config
from compress.profile.gpu import gpus
from compress.reconstruction import layerwise
from compress.stages.calibrate import calibrate
from compress.stages.context import Run
from compress.stages.prune import reconstruct
from compress.stages.search import search
from compress.stages.try_out import refined
from compress.tasks import task_of

ROOT = Path(__file__).resolve().parents[1]
GB = 1e9
SIZES = {
    "tiny": {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64},
    "base": {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
    "large": {"num_hidden_layers": 24, "hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096},
}
MACS = 0.4
# Of a section that runs the stages twice.
PARTS = ("first", "second", "float32", "tf32")
Figures = dict[str, Any]


class Bench:
    """The sections, and what they share.

    Args:
        given: options of the command line.
    """

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.device = Compute(given.device).device
        self.size = "tiny" if given.tiny else "base"
        self.samples = 96 if given.tiny else 2048
        self._first: Figures = {}

    def run(self, size: str, samples: int, said: list[str]) -> Run:
        """A run of a model with random weights on random tokens."""
        from transformers import BertConfig, BertForSequenceClassification

        torch.manual_seed(0)
        # Wide enough that outputs differ from example to example.
        sizes = BertConfig(**SIZES[size], initializer_range=0.05)
        model: Any = BertForSequenceClassification(sizes).eval().requires_grad_(False)
        task: Any = task_of(model.config, "text-classification")
        nothing: Any = None
        checkpoint = Checkpoint(f"bert-{size}", model, nothing, encoder_of(model), task, "random", Path())
        rng = np.random.default_rng(0)
        rows = [rng.integers(1000, 30000, size=self.given.length) for _ in range(samples)]
        features = {"input_ids": rows, "attention_mask": [np.ones_like(row) for row in rows]}
        data = Encoded(features, None, dict.fromkeys(features, 0))
        compute = Compute(self.given.device, Need.of(checkpoint, self.given.length), said.append)
        config = make_config({"model": "random", "macs": MACS, "device": self.given.device})
        run = Run.silent(config, Loaded(checkpoint, nothing, data, data, data.select([]), compute=compute))
        run.stages.info = said.append  # type: ignore[assignment, method-assign]
        return run

    def stages(self, size: str, samples: int) -> Figures:
        """The stages of a model with random weights."""
        said: list[str] = []
        return {**self.measured(self.run(size, samples, said)), "said": said}

    def measured(self, run: Run) -> Figures:
        """Seconds and peak memory of every stage, the plan, and the divergence that is left."""
        data = run.loaded.calibration
        found: Figures = {"model": run.loaded.checkpoint.name, "examples": len(data), "tokens": data.mean_length}
        found["stages"] = {}
        with self._stage(found, "calibrate"):
            importance = calibrate(run)
        with self._stage(found, "search"):
            importance = refined(run, importance, None)
            plan = search(run, importance, None, 1.0)
        with self._stage(found, "reconstruct"):
            _, repairs = reconstruct(run, plan)
        found["seconds"] = round(sum(one["seconds"] for one in found["stages"].values()), 2)
        found["needed"] = str(Need.of(run.loaded.checkpoint, self.given.length))
        found["plan"] = plan.to_json()
        if repairs.joint is not None:
            found["divergence"] = [repairs.joint.before, repairs.joint.after]
        return found

    @contextmanager
    def _stage(self, found: Figures, name: str) -> Iterator[None]:
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        yield
        figures: Figures = {"seconds": round(time.perf_counter() - start, 2)}
        if cuda:
            figures["peak_gb"] = round(torch.cuda.max_memory_allocated() / GB, 2)
            figures["reserved_gb"] = round(torch.cuda.max_memory_reserved() / GB, 2)
        found["stages"][name] = figures

    def tests(self) -> Figures:
        """``tests/gpu``, in a process of its own."""
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-rs", "--durations=8", "tests/gpu"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
        return {"exit_code": done.returncode, "said": done.stdout.splitlines()[-60:]}

    def twice(self) -> Figures:
        """The stages two times: a first time with all that a process does once, and a second one."""
        first, second = self.stages(self.size, self.samples), self.stages(self.size, self.samples)
        self._first = second
        same = first["plan"] == second["plan"]
        return {"first": _brief(first), "second": _brief(second), "plans_equal": same}

    def tf32(self) -> Figures:
        """The stages with TF32 products in float32 passes."""
        torch.set_float32_matmul_precision("high")
        try:
            found = self.stages(self.size, self.samples)
        finally:
            torch.set_float32_matmul_precision("highest")
        return {**_brief(found), "plan_equal": found["plan"] == self._first.get("plan")}

    def on_host(self) -> Figures:
        """The stages with hidden states on the processor, as where the GPU has no room for them."""
        with patch.object(layerwise, "roomy", lambda device, size: torch.device("cpu")):
            found = self.stages(self.size, self.samples)
        return {**_brief(found), "plan_equal": found["plan"] == self._first.get("plan")}

    def within(self, gigabytes: float, size: str, samples: int) -> Figures:
        """The stages with a bound on this process's memory."""
        if self.device.type == "cuda":
            total = torch.cuda.get_device_properties(self.device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, gigabytes * GB / total), self.device)
        try:
            return {"limit_gb": gigabytes, **_brief(self.stages(size, samples))}
        finally:
            if self.device.type == "cuda":
                torch.cuda.set_per_process_memory_fraction(1.0, self.device)

    def factorisations(self) -> Figures:
        """Milliseconds in both precisions, and whether float32 keeps the order of units."""
        filters, hidden = (256, 64) if self.given.tiny else (3072, 768)
        generator = torch.Generator().manual_seed(0)
        factor = torch.randn(filters, filters, generator=generator) * torch.logspace(0, -3, filters)
        matrix = (factor @ factor.T / filters + 1e-4 * torch.eye(filters)).to(self.device)
        weight = torch.randn(hidden, filters, generator=generator).to(self.device)
        found: Figures = {}
        for kind in (torch.float64, torch.float32):
            own = matrix.to(kind)
            found[str(kind).removeprefix("torch.")] = {
                "inverse_ms": self._ms(partial(torch.linalg.inv, own)),
                "cholesky_ms": self._ms(partial(torch.linalg.cholesky, own)),
                "eigh_hidden_ms": self._ms(partial(torch.linalg.eigh, own[:hidden, :hidden])),
                "product_ms": self._ms(partial(torch.matmul, own, own)),
            }
        curvature = Curvature(matrix, torch.eye(hidden, device=self.device))
        start = time.perf_counter()
        order, _ = removal_order(weight, curvature, 1)
        found["obs_seconds"] = round(time.perf_counter() - start, 3)
        inverse = torch.linalg.inv(matrix).double()
        exact = torch.linalg.inv(matrix.double())
        found["inverse_float32_error"] = float((inverse - exact).norm() / exact.norm())
        found["units"] = len(order)
        return found

    def _ms(self, work: Callable[[], Any]) -> float:
        times = []
        for _ in range(4):
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            work()
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        return round(1e3 * min(times), 3)

    def precision(self) -> Figures:
        """The stages of a real model, with float32 and with TF32 products: what is left held out, and the plan."""
        given, found, plans = self.given, Figures(), []
        asked = {"model": given.model, "data": given.data, "task": given.task, "macs": given.macs}
        config = make_config({**asked, "seq_len": given.seq_len, "device": given.device})
        for name, products in (("float32", "highest"), ("tf32", "high")):
            run = Run.silent(config, load(config, Silent(), evaluation=False))
            torch.set_float32_matmul_precision(products)
            try:
                one = self.measured(run)
            finally:
                torch.set_float32_matmul_precision("highest")
            plans.append(one["plan"])
            found[name] = _brief(one)
        return {**found, "plans_equal": plans[0] == plans[1]}

    def real(self) -> Figures:
        """`compress run` of a real model, where PyTorch computes on the GPU."""
        return {device: self._command(device) for device in dict.fromkeys((str(self.device), *self.given.beside))}

    def _command(self, device: str) -> Figures:
        given = self.given
        with tempfile.TemporaryDirectory() as scratch:
            command = [sys.executable, "-m", "compress", "run", given.model, "--data", given.data, "--device", device]
            command += ["--macs", str(given.macs), "--target", "cpu", "--seq-len", str(given.seq_len), "--json"]
            command += ["--output", f"{scratch}/out", *(["--task", given.task] if given.task else [])]
            command += ["--eval-data", given.eval_data] if given.eval_data else []
            start = time.perf_counter()
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=480, check=False)
        found: Figures = {"exit_code": done.returncode, "seconds": round(time.perf_counter() - start, 1)}
        try:
            document = json.loads(done.stdout)
            found |= {"stages": document["seconds"], "metric": document["validation"]["metric"]}
        except (ValueError, KeyError):
            found["said"] = (done.stdout + done.stderr).splitlines()[-20:]
        return found


def _brief(found: Figures) -> Figures:
    """The figures without the plan's text."""
    return {name: value for name, value in found.items() if name != "plan"}


def machine(bench: Bench) -> Figures:
    """What the figures hold for."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": described(bench.device),
        "gpus": [vars(gpu) for gpu in gpus()],
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
    }


def sections(bench: Bench) -> dict[str, Callable[[], Figures]]:
    """The sections in their order."""
    tiny, given = bench.given.tiny, bench.given
    found: dict[str, Callable[[], Figures]] = {} if given.no_tests else {"tests": bench.tests}
    found |= {
        "engines": Engines(bench.device, given.engines_seconds, tiny=tiny),
        "stages, twice": bench.twice,
        "factorisations": bench.factorisations,
        "TF32": bench.tf32,
        "hidden states on the processor": bench.on_host,
        "within 8 GB": lambda: bench.within(8, bench.size, bench.samples),
    }
    if given.model:
        found |= {"real model": bench.real, "real model, precision": bench.precision}
    found["BERT-large within 24 GB"] = lambda: bench.within(24, "tiny" if tiny else "large", 64 if tiny else 512)
    return {name: work for name, work in found.items() if not given.only or name in given.only}


def markdown(figures: Figures) -> str:
    """A table of the stages, and the rest as it is."""
    lines = [
        f"On {figures['machine']['device']}, torch {figures['machine']['torch']}, {figures['machine']['date']}",
        "",
    ]
    lines += [
        "| section | calibrate, s | search, s | reconstruct, s | in all, s | peak, GB |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in figures.items():
        for part, one in {"": found, **{k: v for k, v in found.items() if k in PARTS}}.items():
            stages = one.get("stages") if isinstance(one, dict) else None
            if stages and "calibrate" in stages and "reconstruct" in stages:
                seconds = " | ".join(str(stages[s]["seconds"]) for s in ("calibrate", "search", "reconstruct"))
                peak = max(one.get("peak_gb", 0.0) for one in stages.values())
                lines.append(f"| {name} {part} | {seconds} | {one['seconds']} | {peak} |")
    if "engines" in figures:
        lines += ["", *table(figures["engines"])]
    rest = {name: found for name, found in figures.items() if name != "machine"}
    return "\n".join([*lines, "", "```json", json.dumps(rest, indent=1), "```"]) + "\n"


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, mps or cpu")
    parser.add_argument("--tiny", action="store_true", help="small sizes: tries the script")
    parser.add_argument("--no-tests", action="store_true", help="leave tests/gpu out")
    parser.add_argument("--length", type=int, default=128, help="tokens of an example")
    parser.add_argument("--seconds", type=float, default=540.0, help="no section begins after so long")
    parser.add_argument("--engines-seconds", type=float, default=200.0, help="time share of the section 'engines'")
    parser.add_argument("--only", nargs="*", default=[], help="names of sections to run; all without it")
    parser.add_argument("--model", help="a real checkpoint")
    parser.add_argument("--data", help="its data")
    parser.add_argument("--eval-data")
    parser.add_argument("--task")
    parser.add_argument("--macs", type=float, default=0.3)
    parser.add_argument("--seq-len", type=int, default=64)
    parser.add_argument("--beside", nargs="*", default=[], help="devices to run the real model on too, such as cpu")
    parser.add_argument("--output", default="gpu", help="figures go to OUTPUT.json and OUTPUT.md")
    return parser.parse_args()


@own_torch_state()
def main() -> None:
    given = options()
    began = time.monotonic()
    bench = Bench(given)
    figures: Figures = {"machine": machine(bench)}
    for name, work in sections(bench).items():
        start = time.monotonic()
        if start - began > given.seconds:
            figures[name] = {"not_run": f"{given.seconds:g} seconds were over"}
        else:
            try:
                figures[name] = work()
            except Exception as error:
                figures[name] = {"failed": f"{type(error).__name__}: {error}", "where": traceback.format_exc()[-2000:]}
            figures[name]["took_seconds"] = round(time.monotonic() - start, 1)
        Path(f"{given.output}.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        Path(f"{given.output}.md").write_text(markdown(figures), encoding="utf-8")
        outcome = next((word for word in ("failed", "not_run") if word in figures[name]), "done")
        print(f"[{time.monotonic() - began:6.1f} s] {name}: {outcome}", flush=True)


if __name__ == "__main__":
    main()
