"""A stand-in for the module ``tensorrt`` where its libraries and a GPU would begin: it records what it is asked to do.

Names and signatures are those of tensorrt 11.4's own ``tensorrt.pyi``; everything above it (polygraphy, our code) is
real. ``tests/export/test_tensorrt.py`` compares it with ``tensorrt_rtx``, which has the same interface. What stays
behind it needs a GPU: timing caches, building for a GPU, loading.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any, ClassVar
from unittest.mock import MagicMock

import onnx
import pytest


class FakeTensorRT(ModuleType):
    """Attributes:
    flags: of the network that was created.
    parsed: the ONNX model that the parser got.
    cleared, set: flags of the builder's configuration.
    shapes: of the optimization profile, by input: least, usual, most.
    caches: timing caches that were given, in order.
    loaded: engines that were deserialized.
    """

    def __init__(self, version: str) -> None:
        super().__init__("tensorrt")
        self.__version__ = version
        self.flags = 0
        self.parsed: onnx.ModelProto | None = None
        self.cleared: set[str] = set()
        self.set: set[str] = set()
        self.shapes: dict[str, tuple[Any, ...]] = {}
        self.caches: list[bytes] = []
        self.loaded: list[bytes] = []
        self.built = 0
        self.NetworkDefinitionCreationFlag = _Anything(EXPLICIT_BATCH=0, STRONGLY_TYPED=1)
        self.BuilderFlag = _Names()
        self.MemoryPoolType = _Names()
        self.Builder = lambda logger: _Builder(self)
        self.OnnxParser = lambda network, logger: _Parser(self, network)
        self.Runtime = lambda logger: MagicMock(deserialize_cuda_engine=self._deserialize)

    def _deserialize(self, data: bytes) -> Any:
        self.loaded.append(bytes(data))
        return MagicMock()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = _Anything(name=f"tensorrt.{name}")
        setattr(self, name, value)
        return value


class _Anything(MagicMock):
    """Whatever else polygraphy asks the module for; an enumeration without members, if it is one."""

    __members__: ClassVar[dict[str, str]] = {}


class _Names:
    """An enumeration whose members are their names."""

    __members__: ClassVar[dict[str, str]] = {}

    def __getattr__(self, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _Parser:
    num_errors = 0

    def __init__(self, module: FakeTensorRT, network: Any) -> None:
        self._module, self._network = module, network

    def parse(self, data: bytes) -> bool:
        return self._took(onnx.load_from_string(data))

    def parse_from_file(self, path: str) -> bool:
        return self._took(onnx.load(path))

    def _took(self, model: onnx.ModelProto) -> bool:
        self._module.parsed = model
        inputs = []
        for value in model.graph.input:
            tensor = MagicMock(shape=(-1, -1), is_shape_tensor=False)
            tensor.name = value.name
            inputs.append(tensor)
        self._network.num_inputs = len(inputs)
        self._network.get_input = lambda i: inputs[i]
        return True


class _Builder:
    def __init__(self, module: FakeTensorRT) -> None:
        self._module = module

    def create_network(self, flags: int = 0) -> Any:
        self._module.flags = flags
        network = MagicMock()
        network.__iter__.return_value = iter(())
        return network

    def create_optimization_profile(self) -> Any:
        profile = MagicMock()
        profile.set_shape = lambda name, least, usual, most: self._module.shapes.update({name: (least, usual, most)})
        return profile

    def create_builder_config(self) -> Any:
        module = self._module
        # No calibrator: precision is the file's.
        config = MagicMock(int8_calibrator=None, DLA_core=-1, num_optimization_profiles=1)
        config.set_flag = lambda flag: module.set.add(str(flag))
        config.clear_flag = lambda flag: module.cleared.add(str(flag))

        def create_timing_cache(data: bytes) -> Any:
            module.caches.append(bytes(data))
            cache = MagicMock()
            cache.serialize.return_value.__enter__.return_value = b"timings"
            return cache

        config.create_timing_cache = create_timing_cache
        config.get_timing_cache = lambda: create_timing_cache(b"so far")
        return config

    def build_serialized_network(self, network: Any, config: Any) -> bytes:
        self._module.built += 1
        return f"engine {self._module.built}".encode()


def install(monkeypatch: pytest.MonkeyPatch, version: str) -> FakeTensorRT:
    """Let ``import tensorrt``, polygraphy's too, give the stand-in."""
    module = FakeTensorRT(version)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    for name in [name for name in sys.modules if name.split(".")[0] == "polygraphy"]:
        # It keeps what it imported.
        monkeypatch.delitem(sys.modules, name)
    return module
