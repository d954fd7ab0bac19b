"""int8 for OpenVINO without nncf: what nncf did to the dense model is done to structures cut from it, for profiling.

nncf takes seconds for every model, and a profile needs tens of them. Where it puts products by channel, rounding and
int8 weights does not depend on the widths, and how long a call takes depends on nothing else: whether 8 bits have a
sign, which follows from the ranges, was measured to make no difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import ExportError


@dataclass(frozen=True)
class _Inserted:
    """What nncf put before an input of an operator.

    Attributes:
        chain: the operators, the nearest first.
        source: the operator before them; None where the chain starts with a constant in int8.
    """

    chain: tuple[Any, ...]
    source: Any


@dataclass
class Int8Layout:
    """Where nncf rounds in a dense model.

    Attributes:
        quantized: an ``openvino.Model`` from nncf.
        float_names: names of the operators that it had before.
    """

    quantized: Any
    float_names: frozenset[str]
    _dense: dict[str, Any] = field(init=False, repr=False)
    _inputs: dict[str, list[_Inserted]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        operators = {operator.get_friendly_name(): operator for operator in self.quantized.get_ops()}
        self._dense = {name: operator for name, operator in operators.items() if name in self.float_names}
        self._inputs = {
            name: [self._before(output) for output in operator.input_values()] for name, operator in self._dense.items()
        }

    def apply(self, model: Any, stable_names: Sequence[str]) -> Any:
        """Round a float model where nncf rounds the dense one.

        Weights, scales and ranges are cut from those of the dense model: right where a structure keeps the first units
        of every layer, and good for timing where it keeps others.

        Args:
            model: an ``openvino.Model`` cut from the dense one; changed.
            stable_names: operators that have one name in both. OpenVINO numbers the others as it reads a file; these
                are found from their readers.

        Returns:
            The model.

        Raises:
            ExportError: nncf did something that this cannot do again.
        """
        stable, known, made = set(stable_names), dict[str, str](), dict[tuple[str, str, int], Any]()
        for operator in reversed(model.get_ordered_ops()):
            name = operator.get_friendly_name()
            own = name if name in stable or operator.get_type_name() == "Result" else known.get(name, "")
            twin = self._dense.get(own)
            if twin is None or twin.get_type_name() != operator.get_type_name():
                continue
            for port, inserted in zip(operator.inputs(), self._inputs[own], strict=True):
                source = port.get_source_output()
                if inserted.source is not None:
                    known.setdefault(source.get_node().get_friendly_name(), inserted.source.get_friendly_name())
                if inserted.chain:
                    port.replace_source_output(_again(inserted.chain, source, made))
        model.validate_nodes_and_infer_types()
        return model

    def _before(self, output: Any) -> _Inserted:
        chain = []
        while (operator := output.get_node()).get_friendly_name() not in self.float_names:
            chain.append(operator)
            if not operator.inputs():
                return _Inserted(tuple(chain), None)
            output = operator.input_value(0)
        return _Inserted(tuple(chain), operator)


def _again(chain: Sequence[Any], source: Any, made: dict[tuple[str, str, int], Any]) -> Any:
    """A chain behind another source; operators that several readers share are made once.

    Args:
        chain: the operators, the last first.
        source: the output that they read, or the float constant that they replace.
        made: outputs of operators by their names in the dense model and their source.
    """
    output, shape = source, source.get_partial_shape()
    for operator in reversed(chain):
        key = (operator.get_friendly_name(), source.get_node().get_friendly_name(), source.get_index())
        if key not in made:
            made[key] = _operator(operator, output, shape).output(0)
        output = made[key]
    return output


def _operator(dense: Any, read: Any, shape: Any) -> Any:
    """An operator like one of the dense model, with its constants cut to a shape."""
    import openvino.opset1 as operators
    from openvino import op

    kind = dense.get_type_name()
    if kind == "Constant":
        return op.Constant(_cut(dense.data, shape))
    if kind == "Convert":
        return operators.convert(read, dense.get_element_type().get_type_name())
    constants = [op.Constant(_cut(value.get_node().data, shape)) for value in dense.input_values()[1:]]
    if kind == "Multiply":
        return operators.multiply(read, *constants)
    if kind == "FakeQuantize":
        return operators.fake_quantize(read, *constants, dense.get_attributes()["levels"])
    raise ExportError(
        f"nncf put a {kind} into the dense model, which this version cannot put into others; use --precision fp32"
    )


def _cut(values: NDArray[Any], shape: Any) -> NDArray[Any]:
    """A constant with the sizes of a shape, as far as it has those axes; axes of one value are spread over any size."""
    sizes = list(shape)[len(shape) - values.ndim :]
    kept = (size.get_length() if n > 1 and size.is_static else n for n, size in zip(values.shape, sizes, strict=True))
    return np.ascontiguousarray(values[tuple(map(slice, kept))])
