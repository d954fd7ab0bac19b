"""The section "engines" of gpu.py: forms of our fp16 file, with and without CUDA graphs, beside PyTorch.

For a BERT-base and a MiniLM-L6 size with random weights: dense, half of the heads and filters of every layer, and both
sublayers of every second layer removed; at 1 x 64, 1 x 128, 32 x 128 and 256 x 128 tokens of full length. PyTorch is
eager and compiled (``mode="reduce-overhead"``, which captures CUDA graphs too), of the same structures, in fp16. Times
are medians in milliseconds by CUDA events, with inputs and outputs on the GPU; on a processor, by the host's clock, in
float32, and good for trying the script alone. Answers of every form are compared with the plain float32 file on padded
inputs, and the attention kernel that ONNX Runtime chose is noted.

What comes first matters most: cells that are not reached in the given seconds are noted as such.
"""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from compress.core.plan import Widths
from compress.export.cuda_events import without_copies
from compress.export.lowering import Engine, lower, variants
from compress.export.narrowing import narrow
from compress.export.onnx import export_onnx
from compress.export.runtime import open_session
from compress.export.session import Session
from compress.models.encoder import Encoder, encoder_of
from compress.profile.cuda_graphs import CudaGraphs
from compress.profile.gpu import gpus
from compress.profile.target import Target, load_target
from compress.profile.timing import measure
from compress.pruning.removal import narrow_to
from compress.stages.forms import difference, with_padding

SIZES = {
    "MiniLM-L6": {"num_hidden_layers": 6, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536},
    "BERT-base": {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
}
TINY = {"tiny": {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 64}}
SHAPES = ((1, 64), (1, 128), (32, 128), (256, 128))
TINY_SHAPES = ((1, 8), (2, 16))
NAMES = ("input_ids", "attention_mask")
ROUNDS = 60
Figures = dict[str, Any]
Feed = dict[str, NDArray[Any]]


class Engines:
    """The section's cells, within a time.

    Args:
        device: where PyTorch computes; ONNX Runtime runs there too.
        tiny: small sizes, few rounds.
        seconds: no cell begins after so long.
    """

    def __init__(self, device: torch.device, seconds: float, *, tiny: bool) -> None:
        self.device, self.tiny = device, tiny
        self.seconds, self.ends = seconds, 0.0
        self.cuda = device.type == "cuda"
        self.precision: Any = "fp16" if self.cuda else "fp32"
        self.shapes = TINY_SHAPES if tiny else SHAPES
        self.target = load_target("cpu")
        if self.cuda:
            found = gpus()[0]
            self.target = Target(
                name="here", device=found.name, runtime="onnxruntime-cuda", compute_capability=found.compute_capability
            )

    def __call__(self) -> Figures:
        """Figures by model and structure."""
        self.ends = time.monotonic() + self.seconds
        found: Figures = {
            "seconds": "by CUDA events" if self.cuda else "by the host's clock; float32; tries the script"
        }
        for name, sizes in (TINY if self.tiny else SIZES).items():
            with tempfile.TemporaryDirectory() as scratch:
                found[name] = self._model(sizes, Path(scratch) / "dense.onnx")
        return found

    def _model(self, sizes: Mapping[str, int], path: Path) -> Figures:
        model = _random(sizes)
        export_onnx(model, path, input_names=list(NAMES))
        encoder, proto = encoder_of(model), onnx.load(str(path))
        found: Figures = {}
        fast: list[Engine] = []
        for name, widths in structures(encoder).items():
            plain = narrow(proto, encoder, widths)
            found[name] = {"forms": {}, "PyTorch": {}}
            offered = fast or self._forms()
            for engine in offered:
                if self._over():
                    found[name]["forms"][engine.name] = "not run: the time was over"
                    continue
                with _failing_into(found[name]["forms"], engine.name):
                    found[name]["forms"][engine.name] = self._form(plain, engine)
            if not fast:
                fast = _fastest(found[name]["forms"], offered)
            for how in ("eager", "compiled"):
                with _failing_into(found[name]["PyTorch"], how):
                    found[name]["PyTorch"][how] = self._torch(model, widths, how)
        return found

    def _over(self) -> bool:
        return time.monotonic() > self.ends

    def _forms(self) -> list[Engine]:
        if self.cuda:
            return list(variants(self.target, self.precision))
        return list(variants(load_target("h100"), "fp32"))[:: 2 if self.tiny else 1]

    def _form(self, plain: onnx.ModelProto, engine: Engine) -> Figures:
        """Times of a form at every shape, without and with graphs; how far its answers are off; its kernel."""
        file = lower(plain, engine).SerializeToString()
        found: Figures = {}
        feed = with_padding(feed_of(*self.shapes[0]))
        exact = open_session(plain.SerializeToString(), load_target("cpu")).run(feed)
        for how, target in self._targets().items():
            session = open_session(file, target)
            found[f"off, {how}"] = round(difference(session.run(feed), exact), 5)
            for batch, length in self.shapes:
                if self._over():
                    break
                found.setdefault(f"{batch} x {length}", {})[how] = self._session_ms(session, feed_of(batch, length))
            session.close()
        if self.cuda:
            found["kernel"] = kernels_of(file)
        return found

    def _targets(self) -> dict[str, Target]:
        if not self.cuda:
            return {"plain": self.target}
        batches, lengths = (tuple(sorted({shape[axis] for shape in self.shapes})) for axis in (0, 1))
        graphs = CudaGraphs(batch_size=batches, seq_len=lengths)
        return {"plain": self.target, "graph": self.target.model_copy(update={"cuda_graphs": graphs})}

    def _session_ms(self, session: Session, feed: Feed) -> float:
        rounds = 3 if self.tiny else ROUNDS
        times = without_copies((session,), feed, rounds) if self.cuda else None
        if times is None:
            times = measure([lambda: session.run(feed)], rounds=rounds)
        return round(float(np.median(times)), 4)

    def _torch(self, dense: Any, widths: Widths, how: str) -> Figures:
        """Times of PyTorch at every shape; compiled takes long to begin, so fewer shapes may be reached."""
        model = copy.deepcopy(dense)
        narrow_to(model, widths)
        model = model.to(self.device, torch.float16 if self.cuda else torch.float32)
        call: Callable[..., Any] = model
        if how == "compiled":
            # On a processor only whether it goes through: without a compiler, and without waiting for one.
            call = torch.compile(model, mode="reduce-overhead") if self.cuda else torch.compile(model, backend="eager")
        found: Figures = {}
        for batch, length in self.shapes:
            if self._over():
                found[f"{batch} x {length}"] = "not run: the time was over"
                continue
            inputs = {name: torch.from_numpy(value).to(self.device) for name, value in feed_of(batch, length).items()}
            start = time.perf_counter()
            ms = self._torch_ms(call, inputs)
            found[f"{batch} x {length}"] = ms
            found["seconds in all"] = round(found.get("seconds in all", 0.0) + time.perf_counter() - start, 1)
        # Its graphs hold memory.
        torch.compiler.reset()
        return found

    def _torch_ms(self, call: Callable[..., Any], inputs: Mapping[str, torch.Tensor]) -> float:
        times = []
        with torch.inference_mode():
            for _ in range(5):
                call(**inputs)
            for _ in range(3 if self.tiny else ROUNDS):
                if self.cuda:
                    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                    torch.cuda.synchronize()
                    before.record()
                    call(**inputs)
                    after.record()
                    torch.cuda.synchronize()
                    times.append(before.elapsed_time(after))
                else:
                    start = time.perf_counter()
                    call(**inputs)
                    times.append(1e3 * (time.perf_counter() - start))
        return round(float(np.median(times)), 4)


def structures(encoder: Encoder) -> dict[str, Widths]:
    """What is kept, by name."""
    shape = encoder.shape
    every_second = [layer % 2 == 0 for layer in range(shape.layers)]
    return {
        "dense": shape.dense,
        "half of heads and filters": Widths((shape.heads // 2,) * shape.layers, (shape.filters // 2,) * shape.layers),
        "every second layer removed": Widths(
            tuple(shape.heads * kept for kept in every_second), tuple(shape.filters * kept for kept in every_second)
        ),
    }


def feed_of(batch: int, length: int) -> Feed:
    """Random tokens of full length."""
    ids = np.random.default_rng(0).integers(1000, 30000, (batch, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def _random(sizes: Mapping[str, int]) -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**sizes, initializer_range=0.05)).eval().requires_grad_(False)


def _fastest(forms: Figures, offered: list[Engine]) -> list[Engine]:
    """The plain form, and those that are fastest at some shape on the dense model."""
    cells: dict[str, dict[str, float]] = {}
    for name, found in forms.items():
        for shape, times in found.items() if isinstance(found, dict) else ():
            if isinstance(times, dict):
                cells.setdefault(shape, {})[name] = min(times.values())
    best = {min(times, key=lambda name: times[name]) for times in cells.values()}
    return [engine for number, engine in enumerate(offered) if number == 0 or engine.name in best]


@contextmanager
def _failing_into(found: Figures, name: str) -> Iterator[None]:
    """A cell that fails is noted, and the next begins."""
    try:
        yield
    except Exception as error:
        found[name] = f"failed: {type(error).__name__}: {error}"[:500]


_ONE_CALL = """
import sys
import numpy as np
from compress.export.cuda import _inference
session, _ = _inference(open(sys.argv[1], "rb").read(), 0)
session.run(None, {value.name: np.ones((2, 64), np.int64) for value in session.get_inputs()})
"""


def kernels_of(file: bytes) -> list[str]:
    """Attention kernels that ONNX Runtime chooses for a file at 2 x 64, as it prints them in a process of its own."""
    with tempfile.NamedTemporaryFile(suffix=".onnx") as written:
        written.write(file)
        written.flush()
        done = subprocess.run(
            [sys.executable, "-c", _ONE_CALL, written.name],
            env={**os.environ, "ORT_ENABLE_ATTENTION_KERNEL_DEBUG_INFO": "1"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    return sorted(set(re.findall(r"SdpaKernel=(\w+)", done.stdout)))


def table(figures: Figures) -> list[str]:
    """Lines of a Markdown table: every form and PyTorch, a column for each shape, milliseconds plain / as a graph."""
    models = {name: found for name, found in figures.items() if isinstance(found, dict)}
    shapes: dict[str, None] = {}
    rows: list[tuple[str, Mapping[str, Any]]] = []
    for model, found in models.items():
        for structure, cells in found.items():
            for kind, times in (*cells["forms"].items(), *cells["PyTorch"].items()):
                if isinstance(times, dict):
                    rows.append((f"{model}, {structure}: {kind}", times))
                    shapes |= dict.fromkeys(name for name in times if " x " in name)
    lines = [f"| ms | {' | '.join(shapes)} | kernel |", "|---" * (len(shapes) + 2) + "|"]
    for name, times in rows:
        shown = [
            " / ".join(f"{ms:g}" for ms in cell.values()) if isinstance(cell, dict) else str(cell)
            for cell in (times.get(shape, "-") for shape in shapes)
        ]
        lines.append(f"| {name} | {' | '.join(shown)} | {', '.join(times.get('kernel', []))} |")
    return lines
