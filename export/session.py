"""Sessions: the protocol of a loaded model, for all runtimes, and the sessions of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import ExportError
from compress.export import padding
from compress.export.inputs import select_inputs
from compress.export.outputs import answer_names


class Session(Protocol):
    """A loaded model, ready to be called.

    Attributes:
        input_names: inputs of the graph, in its order.
    """

    input_names: tuple[str, ...]

    def run(self, feed: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Run the model on one batch.

        Args:
            feed: arrays by input name, integers [batch, sequence] or images. Names that the graph does not have are
                ignored, so the same feed works for a dense and a pruned model.

        Returns:
            The answer (``outputs.answer_names``); several outputs of one shape are stacked along a last axis.

        Raises:
            ExportError: an input of the graph is missing from the feed, or the runtime failed.
        """
        ...

    def close(self) -> None:
        """Free the model's memory. The session cannot be used afterwards."""
        ...


class OnnxRuntimeSession:
    """``Session`` on ONNX Runtime's CPU provider."""

    def __init__(self, inference: Any) -> None:
        self._inference = inference
        self.input_names: tuple[str, ...] = tuple(value.name for value in inference.get_inputs())
        self._outputs = answer_names([value.name for value in inference.get_outputs()])
        self._right_padded = padding.takes_right_padding_alone(inference)

    def run(self, feed: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Run the model on one batch; see ``Session.run``."""
        if self._inference is None:
            raise ExportError("this session is closed; open another with open_session")
        known = select_inputs(feed, self.input_names)
        try:
            parts = [np.asarray(answer) for answer in self._inference.run(self._outputs, known)]
            answers = parts[0] if len(parts) == 1 else np.stack(parts, axis=-1)
            if self._right_padded:
                padding.refuse_marked(answers, known)
            return answers
        except runtime_errors() as error:
            shapes = {name: tuple(value.shape) for name, value in known.items()}
            raise ExportError(f"ONNX Runtime could not run the model on inputs {shapes}: {error}") from error

    def close(self) -> None:
        """Free the model's memory; see ``Session.close``."""
        self._inference = None


def runtime_errors() -> tuple[type[Exception], ...]:
    """Exceptions of ONNX Runtime: a dozen classes whose only common base is ``Exception``."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return tuple(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))


def load_inference(model: Path | bytes, options: Any, providers: Sequence[Any]) -> Any:
    """Create an ``onnxruntime.InferenceSession``.

    Args:
        model: an ONNX file, or its bytes.
        options: ``onnxruntime.SessionOptions``.
        providers: execution providers, as ``InferenceSession`` takes them.

    Returns:
        The inference session.

    Raises:
        ExportError: there is no such file, or the runtime cannot load it.
    """
    import onnxruntime

    if isinstance(model, Path) and not model.is_file():
        raise ExportError(f"there is no model file '{model}'; export it with `compress export`")
    try:
        return onnxruntime.InferenceSession(
            str(model) if isinstance(model, Path) else model, options, providers=providers
        )
    except runtime_errors() as error:
        what = f"'{model}'" if isinstance(model, Path) else "the graph"
        raise ExportError(f"ONNX Runtime {onnxruntime.__version__} cannot load {what}: {error}") from error
