"""The exported dense model, and what is made of it to be timed: structures of any widths, in any number format."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from compress.core.plan import Widths
from compress.data.batches import fixed_batch
from compress.export import graph, openvino
from compress.export.int8 import LEAST_SAMPLES
from compress.export.int8_invariant import smoothed_in
from compress.export.lowering import Engine, lower
from compress.export.narrowing import narrow
from compress.export.openvino_layout import Int8Layout
from compress.options.run_config import RunConfig
from compress.stages import cache_codecs
from compress.stages.cache_keys import model_inputs
from compress.stages.export import (
    DENSE_ENGINE,
    check_on_processor,
    interface_of,
    made_up,
    samples_of,
    write_onnx,
)
from compress.stages.stage import Stage, stage

if TYPE_CHECKING:
    from compress.inputs.load import Loaded
    from compress.stages.context import Run

EXPORTERS = ("torch", "transformers", "onnx", "onnx-ir", "onnxscript")
# Sessions that only serve to be timed carry this many rows of the vocabulary: the rest costs memory, not time.
TIMED_VOCABULARY = 2000


@stage(
    Stage("dense", version=2, after=None, libraries=EXPORTERS),
    inputs=lambda run, scratch: {"model": model_inputs(run), "inputs": list(run.loaded.input_names)},
    codec=cache_codecs.FILE,
)
def export_dense(run: Run, scratch: Path) -> Path:
    """Export the dense model as ONNX.

    Args:
        run: gives the model and its task.
        scratch: directory to write into.

    Returns:
        The file.

    Raises:
        ExportError: it is not the model at every batch size and length.
    """
    path = scratch / "dense.onnx"
    write_onnx(run.loaded.checkpoint.model, path, run.loaded)
    check_on_processor(path, run.loaded.checkpoint.model, run.loaded)
    return path


def deployment_feed(config: RunConfig, loaded: Loaded) -> dict[str, NDArray[Any]]:
    """One batch of the deployment's shape: real examples where there are some, else made-up ones.

    Args:
        config: batch size and length.
        loaded: calibration examples and task.

    Returns:
        Arrays by input name, integers [batch, sequence] or images.
    """
    if len(loaded.calibration):
        return fixed_batch(loaded.calibration, config.batch_size, config.seq_len)
    return fixed_batch(made_up(loaded, config.seq_len, 4), config.batch_size, config.seq_len)


@dataclass
class DenseModel:
    """The dense model's file, and structures cut from it.

    Attributes:
        loaded: the model and its target.
        path: of the file; others are written beside it.
        feed: one batch of the deployment.
    """

    loaded: Loaded
    path: Path
    feed: dict[str, NDArray[Any]]
    _pattern: Any = field(default=None, repr=False)
    _layout: Int8Layout | None = field(default=None, repr=False)
    _smoothed: frozenset[str] | None = field(default=None, repr=False)

    @property
    def timing_feed(self) -> dict[str, NDArray[Any]]:
        """The deployment's batch, with token ids that ``build`` has rows for."""
        return {k: v % TIMED_VOCABULARY if k == "input_ids" else v for k, v in self.feed.items()}

    def size_bytes(self, engine: Engine) -> float:
        """Size of the file as an engine has it; int8 is built, the others follow from float32."""
        dense = graph.size_bytes(self.path)
        if engine.precision != "int8":
            return dense / (2 if engine.precision == "fp16" else 1)
        # What is built has few rows of the vocabulary; int8 takes a byte for each of the rest, fp16 around it two.
        whole = self.loaded.shape.dense
        rest = dense - len(self.build(whole))
        return len(self.build(whole, engine)) + rest / (2 if engine.rest == "fp16" else 4)

    def build(self, widths: Widths, engine: Engine = DENSE_ENGINE) -> bytes:
        """The file that a structure of these widths would have, but for its weights; good for timing.

        Args:
            widths: heads and filters per layer.
            engine: number format and form.
        """
        if engine.form == "compiled":
            return self._compiled(widths, engine)
        narrowed = self._narrowed(widths)
        if engine.scheme == "nncf":
            return openvino.to_bytes(self._openvino_int8(narrowed))
        found = lower(narrowed, engine, [self.timing_feed], timing_only=True, smoothed=self._smoothed_as(engine))
        data: bytes = found.SerializeToString()
        return data

    def prepare(self, engine: Engine) -> None:
        """Do what has to be done once before ``build`` takes as long as it takes from then on.

        Args:
            engine: number format and form to be built.
        """
        if engine.scheme == "nncf" and self._layout is None and self._is_cut:
            dense = self._narrowed(self.loaded.shape.dense).SerializeToString()
            self._layout = openvino.int8_layout(dense, self.loaded.target, [self.timing_feed])

    def _smoothed_as(self, engine: Engine) -> frozenset[str] | None:
        """What invariant int8 smooths of the dense model, and then of most structures: 8 us each on a small model."""
        if engine.scheme != "invariant" or not self._is_cut or len(self.loaded.calibration) < LEAST_SAMPLES:
            return None
        if self._smoothed is None:
            import onnx

            dense = lower(onnx.load(str(self.path)), replace(engine, left_out=()), samples_of(self.loaded))
            self._smoothed = smoothed_in(dense)
        return self._smoothed

    def _compiled(self, widths: Widths, engine: Engine) -> bytes:
        """AOTInductor's package of a structure, from PyTorch."""
        from compress.export.aotinductor import compile_package
        from compress.pruning.removal import narrow_to

        model, target = copy.deepcopy(self.loaded.checkpoint.model), self.loaded.target
        if widths != self.loaded.shape.dense:
            narrow_to(model, widths)
        path = self.path.with_name("structure.pt2")
        try:
            compile_package(model, path, interface_of(self.loaded), target, engine.precision)
            return path.read_bytes()
        finally:
            path.unlink(missing_ok=True)

    def forget(self) -> None:
        """Free the pattern that structures are cut from."""
        self._pattern = self._layout = None

    @property
    def _is_cut(self) -> bool:
        """Whether structures are cut from the dense graph; others are exported, and their operators named anew."""
        return self.loaded.checkpoint.encoder.family.attention_kind is not None

    def _narrowed(self, widths: Widths) -> Any:
        if not self._is_cut:
            return self._exported_anew(widths)
        if self._pattern is None:
            self._pattern = self._without_vocabulary(self.path)
        return narrow(self._pattern, self.loaded.checkpoint.encoder, widths)

    def _openvino_int8(self, narrowed: Any) -> Any:
        self.prepare(Engine("int8", scheme="nncf"))
        if self._layout is not None:
            return openvino.convert_alike(narrowed, self.loaded.target, self._layout)
        return openvino.convert(narrowed.SerializeToString(), self.loaded.target, [self.timing_feed])

    def _exported_anew(self, widths: Widths) -> Any:
        """``graph.narrow`` by way of PyTorch, in seconds: for attention that is exported as it is written."""
        from compress.pruning.removal import narrow_to

        model = copy.deepcopy(self.loaded.checkpoint.model)
        narrow_to(model, widths)
        path = self.path.with_name("structure.onnx")
        write_onnx(model, path, self.loaded)
        return self._without_vocabulary(path)

    def _without_vocabulary(self, path: Path) -> Any:
        """An exported model without the rows of its vocabulary that timing does not need; images have none."""
        import onnx

        proto = onnx.load(str(path))
        return graph.trim_vocabulary(proto, TIMED_VOCABULARY) if "input_ids" in self.feed else proto
