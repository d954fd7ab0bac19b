"""Sessions of ONNX Runtime with bound inputs and outputs, so that each is copied once; on a GPU or on the processor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import ExportError
from compress.export import cuda_events, padding
from compress.export.inputs import select_inputs
from compress.export.outputs import answer_names

# The number of calls that are neither captured nor replayed, in a session with CUDA graphs.
UNCAPTURED = -1
# Run option: number of the CUDA graph.
GRAPH_NUMBER = "gpu_graph_id"


class BoundSession:
    """``Session`` with bound inputs and outputs: a call takes arrays of the host and returns one.

    So its latency includes both copies, as for a caller on the host. The memory of the inputs stays bound between calls
    of one shape.

    Args:
        inference: an ``onnxruntime.InferenceSession``.
        device: device of inputs and outputs, ``cuda`` or ``cpu``.
        number: number of that device.
        stream: CUDA stream that the session computes on; None if the session has its own.
        graph: number of the CUDA graph of the calls, which then all have one shape; ``UNCAPTURED`` for calls without
            one in a session with CUDA graphs; None in one without.
    """

    def __init__(
        self,
        inference: Any,
        device: str = "cuda",
        number: int = 0,
        stream: int | None = None,
        graph: int | None = None,
    ) -> None:
        self._inference, self._device, self._number, self._stream = inference, device, number, stream
        self._graph, self._options = graph, run_options(graph)
        self._right_padded = padding.takes_right_padding_alone(inference)
        self.input_names: tuple[str, ...] = tuple(value.name for value in inference.get_inputs())
        self._outputs = answer_names([value.name for value in inference.get_outputs()])
        self._bound: dict[str, Any] = {}
        self._binding: Any = None

    def run(self, feed: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Run the model on one batch; see ``Session.run``."""
        binding, known = self._bind(feed)
        with _as_export_error(known):
            self._inference.run_with_iobinding(binding, self._options)
            parts = binding.copy_outputs_to_cpu()
        answers = np.array(parts[0]) if len(parts) == 1 else np.stack(parts, axis=-1)
        if self._right_padded:
            padding.refuse_marked(answers, known)
        return answers

    def without_copies(
        self, feed: Mapping[str, NDArray[Any]], stream: int | None = None
    ) -> tuple[Callable[[], None], int]:
        """Prepare calls whose inputs are already on the GPU.

        Args:
            feed: one batch, arrays by input name.
            stream: the session's stream, where it was not told.

        Returns:
            A function that starts a call, and the CUDA stream that it starts on.

        Raises:
            ExportError: the session computes on a stream that only the runtime knows.
        """
        stream = self._stream if stream is None else stream
        if stream is None:
            raise ExportError("this session has no CUDA stream to time on; install cuda-bindings (the extra 'gpu')")
        binding, known = self._bind(feed)
        options = run_options(self._graph)
        # With this a call returns as soon as everything has started; events tell when it is done.
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")

        def start() -> None:
            self._inference.run_with_iobinding(binding, options)

        with _as_export_error(known):
            start()
        return start, stream

    def close(self) -> None:
        """Free the model's memory; see ``Session.close``."""
        self._inference, self._binding = None, None
        self._bound.clear()
        if self._stream is not None:
            cuda_events.free_stream(self._stream)
            self._stream = None

    def _bind(self, feed: Mapping[str, NDArray[Any]]) -> tuple[Any, dict[str, NDArray[Any]]]:
        """Copy inputs to the session's device, into the memory of the last call if the shapes are the same."""
        if self._inference is None:
            raise ExportError("this session is closed; open another with open_session")
        known = {name: np.ascontiguousarray(value) for name, value in select_inputs(feed, self.input_names).items()}
        import onnxruntime

        shapes = {name: tuple(value.shape()) for name, value in self._bound.items()}
        with _as_export_error(known):
            if shapes == {name: value.shape for name, value in known.items()}:
                for name, value in known.items():
                    self._bound[name].update_inplace(value)
                return self._binding, known
            binding = self._inference.io_binding()
            self._bound = {
                name: onnxruntime.OrtValue.ortvalue_from_numpy(value, self._device, self._number)
                for name, value in known.items()
            }
            for name, value in self._bound.items():
                binding.bind_ortvalue_input(name, value)
            for name in self._outputs:
                # Their shapes follow from the inputs': the runtime allocates.
                binding.bind_output(name, self._device, self._number)
            if self._graph is not None and self._graph != UNCAPTURED:
                # A graph writes to the same memory at every replay: the first call allocates it, and it stays bound.
                self._inference.run_with_iobinding(binding, run_options(UNCAPTURED))
                kept = binding.get_outputs()
                binding.clear_binding_outputs()
                for name, value in zip(self._outputs, kept, strict=True):
                    binding.bind_ortvalue_output(name, value)
        self._binding = binding
        return binding, known


def run_options(graph: int | None) -> Any:
    """Run options of a call.

    Args:
        graph: number of its CUDA graph, or ``UNCAPTURED``; None in a session without graphs.

    Returns:
        ``onnxruntime.RunOptions``.
    """
    import onnxruntime

    options = onnxruntime.RunOptions()
    if graph is not None:
        options.add_run_config_entry(GRAPH_NUMBER, str(graph))
    return options


@contextmanager
def _as_export_error(known: Mapping[str, NDArray[Any]]) -> Iterator[None]:
    from compress.export.session import runtime_errors

    # Bound calls raise a plain RuntimeError.
    expected: tuple[type[Exception], ...] = (*runtime_errors(), RuntimeError)
    try:
        yield
    except expected as error:
        shapes = {name: tuple(value.shape) for name, value in known.items()}
        raise ExportError(f"ONNX Runtime could not run the model on inputs {shapes}: {error}") from error
