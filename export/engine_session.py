"""Runs engines of TensorRT and TensorRT-RTX through polygraphy; what both libraries' modules share.

The tests need no GPU; ``docs/gpu.md`` lists the runs on GPUs.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import ExportError, TargetError
from compress.export.inputs import select_inputs
from compress.export.outputs import answer_names

if TYPE_CHECKING:
    from compress.export.tensorrt_file import Record
    from compress.profile.target import Calls, Target

# Engines of this process by their records, since a file is opened several times within a run.
_BUILT: OrderedDict[str, bytes] = OrderedDict()
_MOST_BUILT = 4


class EngineSession:
    """``Session`` on an engine; batches above the engine's largest are split.

    Args:
        engine: the serialized engine.
        record: its record.
        calls: shapes that it accepts.
    """

    def __init__(self, engine: bytes, record: Record, calls: Calls) -> None:
        from polygraphy.backend.trt import TrtRunner, engine_from_bytes

        self.input_names = record.inputs
        self._outputs, self._calls, self._library = record.outputs, calls, record.library
        with polygraphy_errors(self._library, "loading an engine"):
            self._runner: Any = TrtRunner(engine_from_bytes(engine))
            self._runner.activate()

    def run(self, feed: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Run the model on one batch; see ``Session.run``."""
        known = self._known(feed)
        rows, most = len(next(iter(known.values()))), self._calls.batch_size[2]
        parts = [
            self._call({name: value[start : start + most] for name, value in known.items()})
            for start in range(0, rows, most)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def without_copies(self, feed: Mapping[str, NDArray[Any]]) -> tuple[Callable[[], None], int]:
        """Prepare calls whose inputs are already on the GPU.

        Args:
            feed: one batch, arrays by input name.

        Returns:
            A function that starts a call, and the CUDA stream that it starts on.
        """
        # This call sets shapes and addresses for the next ones.
        self._call(self._known(feed))
        context, stream = self._runner.context, self._runner.stream.ptr

        def start() -> None:
            if not context.execute_async_v3(stream):
                raise ExportError(f"{self._library} could not start the engine")

        return start, int(stream)

    def close(self) -> None:
        """Free the model's memory; see ``Session.close``."""
        if self._runner is not None:
            self._runner.deactivate()
            self._runner = None

    def _known(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        if self._runner is None:
            raise ExportError("this session is closed; open another with open_session")
        known = {name: np.ascontiguousarray(value) for name, value in select_inputs(feed, self.input_names).items()}
        check_call({name: value.shape for name, value in known.items()}, self._calls)
        return known

    def _call(self, known: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        shapes = {name: value.shape for name, value in known.items()}
        with polygraphy_errors(self._library, f"on inputs {shapes}"):
            found = self._runner.infer(dict(known), check_inputs=False)
        # The runner's memory is overwritten by the next call.
        answers = [found[name] for name in self._outputs]
        return np.array(answers[0]) if len(answers) == 1 else np.stack(answers, axis=-1)


def check_call(shapes: Mapping[str, tuple[int, ...]], calls: Calls) -> None:
    """Check that an engine takes a call; batches above its largest are split, and so are accepted.

    Args:
        shapes: of the inputs, by name: [batch, sequence], or images.
        calls: what the engine accepts.

    Raises:
        ExportError: it does not; the message has the shape, the ranges, and what to change.
    """
    for name, shape in shapes.items():
        few = shape[0] < calls.batch_size[0]
        # Images have sizes of their own, which are the model's.
        outside = len(shape) == 2 and not calls.seq_len[0] <= shape[1] <= calls.seq_len[2]
        if few or outside:
            raise ExportError(
                f"'{name}' has shape {' x '.join(map(str, shape))}; the engine takes batch sizes "
                f"{calls.batch_size[0]} to {calls.batch_size[2]} and lengths {calls.seq_len[0]} to {calls.seq_len[2]}. "
                "Pad or cut the inputs, or build it for more: --batch-size, --seq-len, or [calls] in the target's file"
            )


def refuse_unusable(target: Target, number: int, product: str, lacking: str | None) -> None:
    """Refuse a GPU of this machine that a library cannot use, or would not use.

    Args:
        target: is that GPU.
        number: of the GPU.
        product: name of the library.
        lacking: why it cannot use the GPU; None where it can.

    Raises:
        TargetError: it cannot, or the GPU is not the first visible one.
    """
    if lacking is not None:
        raise TargetError(f"target '{target.name}' is here, but cannot be used: {lacking}")
    if number:
        raise TargetError(
            f"target '{target.name}' is GPU {number} of this machine, but {product} uses the first visible one: set "
            f"CUDA_VISIBLE_DEVICES={number}"
        )


def stated_calls(target: Target) -> Calls:
    """The calls that a target's engines accept.

    Raises:
        TargetError: it states none.
    """
    if target.calls is None:
        raise TargetError(
            f"target '{target.name}' runs in {target.runtime}, whose engines are built for ranges of calls: give them "
            "in its file under [calls], or with --batch-size and --seq-len"
        )
    return target.calls


def read_graph(model: Path | bytes) -> Any:
    """The graph of an ONNX file or its bytes, without the weights beside the file."""
    import onnx

    return onnx.load(str(model), load_external_data=False) if isinstance(model, Path) else onnx.load_from_string(model)


def ranges_of(model: Any, calls: Calls) -> dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    """Least, usual and most shape of every input.

    Args:
        model: the ONNX graph; the first free dimension of an input is the batch, the second its length.
        calls: what the engine accepts.

    Returns:
        Three shapes by name.
    """
    found = {}
    for value in model.graph.input:
        sizes = [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        shapes = []
        for free in zip(calls.batch_size, calls.seq_len, strict=True):
            rest = iter(free)
            shapes.append(tuple(size or next(rest) for size in sizes))
        found[value.name] = (shapes[0], shapes[1], shapes[2])
    return found


def unread_outputs(model: Any) -> list[str]:
    """Outputs of a graph that nobody reads from an engine: it would compute and copy each in every call."""
    names = [value.name for value in model.graph.output]
    return [name for name in names if name not in answer_names(names)]


def build_once(record: Record, build: Callable[[], bytes]) -> bytes:
    """Build an engine, cached in this process.

    Args:
        record: of the engine, the key of the cache.
        build: builds it.
    """
    key = hashlib.sha256(record.to_json().encode()).hexdigest()
    if key not in _BUILT:
        _BUILT[key] = build()
        while len(_BUILT) > _MOST_BUILT:
            _BUILT.popitem(last=False)
    _BUILT.move_to_end(key)
    return _BUILT[key]


@contextlib.contextmanager
def polygraphy_errors(library: str, what: str) -> Iterator[None]:
    """Turn polygraphy's errors into ExportError, and keep its log off the terminal.

    Args:
        library: that builds or runs the engine.
        what: what is being done.
    """
    from polygraphy.exception import PolygraphyException
    from polygraphy.logger import G_LOGGER

    heard = io.StringIO()
    try:
        with G_LOGGER.verbosity(G_LOGGER.ERROR), contextlib.redirect_stdout(heard):
            yield
    except (PolygraphyException, RuntimeError, ValueError) as error:
        said = " ".join([str(error), heard.getvalue()]).strip()
        raise ExportError(f"{library} failed {what}: {said or type(error).__name__}") from error
