"""CUDA graphs: runs calls of stated shapes in ONNX Runtime as one graph each, smaller calls filled up.

A graph is captured at the first call of its shape: all kernels with their memory, launched again as a whole. Each shape
has memory of its own (bound inputs and outputs) and a number, the run option ``gpu_graph_id``. Other calls run without,
in the same session (number -1). What cannot be captured runs without, too, and that is said once.

What capture forbids: nodes with subgraphs, nodes off the GPU (but for shapes), and those that wait for the GPU to tell
the host a size. Source: ONNX Runtime's documentation, "CUDA Execution Provider", CUDA Graphs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, load_model

from compress.core.errors import ExportError
from compress.export.bound import UNCAPTURED, BoundSession
from compress.export.inputs import select_inputs
from compress.export.outputs import answer_names
from compress.export.padding import PaddingRefused
from compress.models.encoder import MASK

if TYPE_CHECKING:
    from compress.profile.cuda_graphs import CudaGraphs

CONTROL_FLOW = ("If", "Loop", "Scan")
# Their outputs have sizes that only the GPU knows.
OF_UNKNOWN_SIZE = ("Compress", "NonMaxSuppression", "NonZero", "RemovePadding", "Unique")
_logger = logging.getLogger(__name__)
Feed = Mapping[str, NDArray[Any]]


class CapturedSession:
    """``Session`` with a CUDA graph for each stated shape.

    Args:
        inference: an ``onnxruntime.InferenceSession`` with ``enable_cuda_graph``.
        graphs: shapes to capture.
        without: opens a session without graphs, for the case that one cannot be captured.
        device: device of inputs and outputs, ``cuda`` or ``cpu``.
        number: number of that device.
        stream: CUDA stream that the session computes on; None if the session has its own.
    """

    def __init__(
        self,
        inference: Any,
        graphs: CudaGraphs,
        without: Callable[[], BoundSession],
        device: str = "cuda",
        number: int = 0,
        stream: int | None = None,
    ) -> None:
        self._graphs, self._without = graphs, without
        self._other = BoundSession(inference, device, number, stream, UNCAPTURED)
        self._captured = {
            shape: BoundSession(inference, device, number, None, place)
            for place, shape in enumerate(graphs.shapes, start=1)
        }
        self._stream, self._said = stream, False
        self.input_names: tuple[str, ...] = self._other.input_names
        # Of a call that was filled up, the rest of these axes is cut off again.
        outputs = {value.name: value.shape for value in inference.get_outputs()}
        answer = outputs[answer_names(list(outputs))[0]]
        self._of_tokens = [axis for axis, size in enumerate(answer) if axis > 0 and not isinstance(size, int)]

    def run(self, feed: Feed) -> NDArray[Any]:
        """Run the model on one batch; see ``Session.run``."""
        known = select_inputs(feed, self.input_names)
        batch, length = shape_of(known)
        found = self._fitting(known)
        if found is None:
            return self._other.run(known)
        session, filled = found
        try:
            answers = session.run(filled)
        except PaddingRefused:
            raise
        except ExportError as error:
            self._give_up(error)
            return self._other.run(known)
        places: list[slice] = [slice(batch), *[slice(None)] * (answers.ndim - 1)]
        for axis in self._of_tokens:
            places[axis] = slice(length)
        return answers[tuple(places)]

    def without_copies(self, feed: Feed) -> tuple[Callable[[], None], int]:
        """Prepare calls whose inputs are already on the GPU; see ``BoundSession.without_copies``."""
        found = self._fitting(select_inputs(feed, self.input_names))
        if found is None or self._stream is None:
            return self._other.without_copies(feed)
        session, filled = found
        return session.without_copies(filled, self._stream)

    def close(self) -> None:
        """Free the model's memory; see ``Session.close``."""
        for session in (*self._captured.values(), self._other):
            session.close()
        self._captured = {}

    def _fitting(self, known: Feed) -> tuple[BoundSession, dict[str, NDArray[Any]]] | None:
        """The session of the smallest shape that takes a call, and the call filled up to it."""
        batch, length = shape_of(known)
        shape = self._graphs.bucket(batch, length) if self._captured else None
        filled = None if shape is None else fill_up(known, *shape)
        if shape is None or filled is None:
            if self._captured:
                self._say(
                    f"a call of {batch} x {length or '-'} is outside the shapes of CUDA graphs ({self._graphs}) and "
                    "runs without one, as will others; [cuda_graphs] in the target's file states the shapes"
                )
            return None
        return self._captured[shape], filled

    def _give_up(self, error: ExportError) -> None:
        """Go on without graphs: after a capture that failed the session's stream is of no use."""
        self._say(f"CUDA graphs were given up, and calls run without them: {error}")
        other = self._without()
        self.close()
        self._other, self._stream = other, None

    def _say(self, text: str) -> None:
        if not self._said:
            _logger.warning(text)
        self._said = True


def shape_of(feed: Feed) -> tuple[int, int | None]:
    """Examples of a call, and tokens of each; None for inputs without a length, such as images."""
    first = next(iter(feed.values()))
    return first.shape[0], first.shape[1] if first.ndim == 2 else None


def fill_up(feed: Feed, batch_size: int, seq_len: int) -> dict[str, NDArray[Any]] | None:
    """Fill a call up to a shape.

    The last token and the last example are repeated, since every model takes them; added tokens are masked.

    Args:
        feed: arrays by input name.
        batch_size: examples to fill up to.
        seq_len: tokens to fill up to.

    Returns:
        The arrays; None if tokens would have to be added to inputs without a mask.
    """
    filled = {}
    for name, value in feed.items():
        more = [(0, batch_size - len(value)), *[(0, 0)] * (value.ndim - 1)]
        if value.ndim == 2:
            more[1] = (0, seq_len - value.shape[1])
            if more[1][1] and MASK not in feed:
                return None
        filled[name] = np.pad(value, more, mode="edge") if any(after for _, after in more) else value
        if name == MASK and value.shape[1] < seq_len:
            filled[name][:, value.shape[1] :] = 0
    return filled


def obstacles(model: Path | bytes) -> list[str]:
    """Nodes of a file that forbid to capture it, by operator and name; empty if none does.

    Args:
        model: an ONNX file, or its bytes.
    """
    if isinstance(model, Path):
        proto = load_model(str(model), load_external_data=False)
    else:
        proto = ModelProto.FromString(model)
    return [
        f"{node.op_type} '{node.name}'"
        for node in proto.graph.node
        if node.op_type in (*CONTROL_FLOW, *OF_UNKNOWN_SIZE)
    ]


def refused(error: ExportError) -> bool:
    """Whether ONNX Runtime refused a session because its graph cannot be captured."""
    return "graph capture" in str(error)
