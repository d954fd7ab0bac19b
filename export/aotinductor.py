"""AOTInductor: PyTorch's compiled kernels in a package (.pt2) that is called without Python model code.

``compile_package`` exports a model with free batch size and length and compiles it for the processor or the GPU of this
machine; ``open_package`` loads the package. Machine code runs where it was made: a record beside the package says for
which release of torch and which device, and is compared before anything is loaded
(``export/aotinductor_record.py``).
"""

from __future__ import annotations

import copy
import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.core.cores import usable_cores
from compress.core.errors import ExportError, TargetError
from compress.export.aotinductor_record import check_record, record_of, write_record
from compress.export.inputs import example_inputs, select_inputs
from compress.export.outputs import answer_names
from compress.export.quiet import quiet
from compress.models.encoder import longest_input

if TYPE_CHECKING:
    from compress.export.session import Session
    from compress.profile.target import Precision, Target

# Entry of a package's metadata that says how it is called.
_CALL = "compress"
# Of the exporter and the compiler.
_LOGGERS = ("torch._inductor", "torch.export", "torch._export")
Outputs = Callable[[nn.Module, dict[str, Tensor]], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Interface:
    """How a compiled model is called.

    Attributes:
        inputs, outputs: names, in order.
        answer: the task's function from the model and its inputs by name to one tensor per output.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    answer: Outputs


class _Positional(nn.Module):
    """The model with positional tensors as inputs and outputs; numbers come and go as float32."""

    def __init__(self, model: nn.Module, interface: Interface, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self._interface, self._dtype = interface, dtype

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Outputs of the task, for inputs in the order of their names."""
        given = (value.to(self._dtype) if value.is_floating_point() else value for value in inputs)
        answers = self._interface.answer(self.model, dict(zip(self._interface.inputs, given, strict=True)))
        return tuple(answer.float() for answer in answers)


def require(target: Target) -> None:
    """Check that models can be compiled for a target here, before any work.

    Raises:
        TargetError: there is no C++ compiler; or the target is a GPU, and torch cannot use it.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise TargetError(
            f"target '{target.name}' compiles the model, and there is no C++ compiler here: install one "
            "(apt-get install g++), or name it in the environment variable CXX"
        ) from None
    if find_spec("onnxruntime") is None:
        raise TargetError(
            f"target '{target.name}' compares model.onnx with PyTorch in ONNX Runtime, which is not installed; install "
            "the extra: pip install 'compress[cpu]'"
        )
    if target.on_gpu and not torch.cuda.is_available():
        raise TargetError(
            f"target '{target.name}' needs a torch that uses the GPU; torch {torch.__version__} here does not: install "
            "a build for CUDA (https://pytorch.org/get-started)"
        )


def compile_package(model: Any, path: Path, interface: Interface, target: Target, precision: Precision) -> None:
    """Compile a dense or pruned model for this machine.

    Args:
        model: transformers model, float32. It is unchanged when this returns.
        path: file to write (.pt2).
        interface: names, and the task's function.
        target: processor or GPU, and threads, which the code is compiled for.
        precision: ``fp32``, or ``fp16`` for weights and values in half precision.

    Raises:
        ExportError: torch cannot export the model with free batch size and length, or cannot compile it.
    """
    device, dtype = _device(target), torch.float16 if precision == "fp16" else torch.float32
    inputs, axes = example_inputs(interface.inputs, model.config)
    own = copy.deepcopy(model).eval().to(device, dtype)
    call = {
        "inputs": [
            # A size that is free is null.
            {"name": name, "dtype": str(value.dtype)[6:], "shape": _free(value.shape, free)}
            for name, value, free in zip(interface.inputs, inputs, axes, strict=True)
        ],
        "outputs": list(interface.outputs),
        "longest": longest_input(model.config),
    }
    options: dict[str, Any] = {"aot_inductor.metadata": {_CALL: json.dumps(call)}}
    if not target.on_gpu:
        options["cpp.threads"] = _threads(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with quiet(_LOGGERS, logging.CRITICAL), torch.no_grad():
            program = torch.export.export(
                _Positional(own, interface, dtype),
                tuple(value.to(device) for value in inputs),
                dynamic_shapes=(axes,),
                strict=False,
            )
            _compile(program, path, options)
    # torch's exporter and compiler raise errors of many classes, whose only common base is Exception.
    except Exception as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise ExportError(
            f"torch {torch.__version__} could not compile this {model.config.model_type} model with AOTInductor: "
            f"{said[0]}; take a target of another runtime, such as cpu"
        ) from error


def _compile(program: Any, path: Path, options: dict[str, Any]) -> None:
    from torch._inductor import aoti_compile_and_package
    from torch._inductor.utils import fresh_cache

    # Every package leaves a copy of its weights in the cache.
    with fresh_cache():
        aoti_compile_and_package(program, package_path=str(path), inductor_configs=options)


def keep_package(model: Any, path: Path, interface: Interface, target: Target, precision: Precision) -> None:
    """Compile a model, and write a record beside it of what it was made from and for.

    Args:
        model: see ``compile_package``.
        path: ``engine/model.pt2`` of an artifact.
        interface: names, and the task's function.
        target: see ``compile_package``.
        precision: see ``compile_package``.

    Raises:
        ExportError: see ``compile_package``.
    """
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=_made(path.parent)) as folder:
        compiled = Path(folder) / path.name
        compile_package(model, compiled, interface, target, precision)
        compiled.replace(path)
    write_record(path, record_of(target, precision, _threads(target), interface.inputs, interface.outputs))


def open_package(model: Path | bytes, target: Target) -> Session:
    """Load a package.

    Args:
        model: the file, with its record; or the bytes of one that was just compiled here.
        target: processor or GPU, and threads.

    Returns:
        A session.

    Raises:
        TargetError: the package is of another release of torch, or of another device, or damaged.
        ExportError: there is no such file, or torch cannot load it.
    """
    if isinstance(model, Path):
        if not model.is_file():
            raise ExportError(f"there is no package '{model}'; make an artifact for this target with `compress run`")
        check_record(model, target)
        return _load(model, target)
    with tempfile.TemporaryDirectory(prefix="compress-") as folder:
        path = Path(folder) / "model.pt2"
        path.write_bytes(model)
        return _load(path, target)


def _load(path: Path, target: Target) -> Session:
    from torch._inductor import aoti_load_package

    try:
        with quiet(_LOGGERS, logging.CRITICAL):
            # Alone on its device, so that calls can be captured in CUDA graphs.
            package = aoti_load_package(str(path), run_single_threaded=True)
            call = json.loads(package.get_metadata()[_CALL])
    except (RuntimeError, KeyError, ValueError) as error:
        raise ExportError(f"torch {torch.__version__} cannot load '{path.name}': {error}") from error
    kind = GpuPackageSession if target.on_gpu else PackageSession
    return kind(package, call, _device(target), _threads(target))


class PackageSession:
    """``Session`` of a compiled package.

    Args:
        package: callable with the inputs in their order; gives a tuple of tensors.
        call: names, types and shapes of inputs, names of outputs, and the longest length, from the package's metadata.
        device: where the package runs.
        threads: of a call on the processor.
    """

    def __init__(self, package: Any, call: Mapping[str, Any], device: str, threads: int) -> None:
        self._package, self._said, self._device, self._threads = package, call, device, threads
        self.input_names: tuple[str, ...] = tuple(one["name"] for one in call["inputs"])
        wanted = answer_names(call["outputs"])
        self._wanted = [place for place, name in enumerate(call["outputs"]) if name in wanted]

    def run(self, feed: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Run the model on one batch; see ``Session.run``."""
        known = self._known(feed)
        with _with_threads(self._threads), torch.inference_mode(), _as_export_error(known):
            found = self._call([torch.from_numpy(value).to(self._device) for value in known.values()])
            # On the processor a copy, too: nothing says whether a package uses the memory of its answers again.
            answers = [np.array(found[place].cpu().numpy()) for place in self._wanted]
        return answers[0] if len(answers) == 1 else np.stack(answers, axis=-1)

    def close(self) -> None:
        """Free the model's memory; see ``Session.close``."""
        self._package = None

    def _known(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        if self._package is None:
            raise ExportError("this session is closed; open another with open_session")
        given = select_inputs(feed, self.input_names)
        known = {one["name"]: np.ascontiguousarray(given[one["name"]], one["dtype"]) for one in self._said["inputs"]}
        _refuse_shapes(known, self._said)
        return known

    def _call(self, inputs: list[Tensor]) -> Sequence[Tensor]:
        found: Sequence[Tensor] = self._package(*inputs)
        return found


class GpuPackageSession(PackageSession):
    """``PackageSession`` on a GPU, which can be timed without copies. Not run on a GPU yet (docs/gpu.md)."""

    def without_copies(self, feed: Mapping[str, NDArray[Any]]) -> tuple[Callable[[], None], int]:
        """Prepare calls whose inputs are already on the GPU.

        Args:
            feed: one batch, arrays by input name.

        Returns:
            A function that starts a call, and the CUDA stream that it starts on.
        """
        inputs = [torch.from_numpy(value).to(self._device) for value in self._known(feed).values()]

        def start() -> None:
            with torch.inference_mode():
                self._call(inputs)

        return start, int(torch.cuda.current_stream().cuda_stream)


def _refuse_shapes(known: Mapping[str, NDArray[Any]], said: Mapping[str, Any]) -> None:
    """Raise ExportError unless a call has the shapes that the package's metadata names.

    The package trusts its caller: with other sizes it would read memory that is not the inputs'.
    """
    free: set[tuple[int, ...]] = set()
    for one in said["inputs"]:
        shape, wanted = known[one["name"]].shape, one["shape"]
        fits = len(shape) == len(wanted) and all(size in (None, own) for size, own in zip(wanted, shape, strict=True))
        free.add(tuple(own for size, own in zip(wanted, shape, strict=True) if size is None) if fits else (0,))
    if len(free) != 1 or 0 in (sizes := free.pop()):
        shapes = {name: value.shape for name, value in known.items()}
        wanted = {one["name"]: one["shape"] for one in said["inputs"]}
        raise ExportError(f"the compiled model takes inputs {wanted}, with one size for each None, not {shapes}")
    if said["longest"] is not None and len(sizes) > 1 and sizes[1] > said["longest"]:
        raise ExportError(f"the compiled model takes at most {said['longest']} tokens, not {sizes[1]}; cut the inputs")


def _free(shape: Sequence[int], free: Mapping[int, Any]) -> list[int | None]:
    return [None if axis in free else size for axis, size in enumerate(shape)]


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _device(target: Target) -> str:
    return "cuda" if target.on_gpu else "cpu"


def _threads(target: Target) -> int:
    return target.threads or usable_cores()


@contextmanager
def _with_threads(count: int) -> Iterator[None]:
    """Torch's threads while the block runs: products are its libraries', which take its number."""
    before = torch.get_num_threads()
    if before == count:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _as_export_error(known: Mapping[str, NDArray[Any]]) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        shapes = {name: value.shape for name, value in known.items()}
        said = str(error).strip().splitlines()[0]
        raise ExportError(f"the compiled model could not run on inputs {shapes}: {said}") from error
