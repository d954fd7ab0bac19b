"""How to load an artifact for a CUDA target: the lines in its README, and in docs/gpu.md, that capture a CUDA graph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from compress.export.padding import RIGHT_PADDED

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

_TYPES = {1: "float32", 7: "int64", 10: "float16"}
_CODE = """\
import numpy
from onnxruntime import InferenceSession, OrtValue

cuda = ("CUDAExecutionProvider", {{"enable_cuda_graph": "1", "use_tf32": "0"}})
session = InferenceSession("model.onnx", providers=[cuda, "CPUExecutionProvider"])
memory = lambda kind, *shape: OrtValue.ortvalue_from_shape_and_type(shape, numpy.dtype(kind).type, "cuda", 0)
inputs = {{
{inputs}
}}
outputs = {{
{outputs}
}}
binding = session.io_binding()
for name, value in inputs.items():
    binding.bind_ortvalue_input(name, value)
for name, value in outputs.items():
    binding.bind_ortvalue_output(name, value)


def call(batch):  # arrays of these shapes, by name; the first call captures the graph
    for name, value in inputs.items():
        value.update_inplace(batch[name])
    session.run_with_iobinding(binding)
    return {{name: value.numpy() for name, value in outputs.items()}}
"""


def loader(model: ModelProto, batch_size: int, seq_len: int) -> str:
    """Python that loads a file and runs calls of one shape as a CUDA graph.

    Args:
        model: the file; weights beside it need not be loaded.
        batch_size: examples per call.
        seq_len: tokens per example.
    """

    def memory(values: list[ValueInfoProto]) -> str:
        parts = []
        for value in values:
            tensor = value.type.tensor_type
            sizes = {"batch": batch_size, "sequence": seq_len}
            shape = [sizes.get(size.dim_param, size.dim_value) for size in tensor.shape.dim]
            kind = _TYPES[tensor.elem_type]
            parts.append(f'    "{value.name}": memory("{kind}", {", ".join(map(str, shape))}),')
        return "\n".join(parts)

    return _CODE.format(inputs=memory(list(model.graph.input)), outputs=memory(list(model.graph.output)))


def card_of(path: Path, batch_size: int, seq_len: int) -> list[str]:
    """Lines of an artifact's README for a CUDA target.

    Args:
        path: of ``model.onnx``.
        batch_size: examples per call of the deployment.
        seq_len: tokens per example.
    """
    from onnx import load_model

    model = load_model(str(path), load_external_data=False)
    lines = [
        f"In ONNX Runtime's CUDA provider, calls of {batch_size} x {seq_len} as a CUDA graph, with memory that stays "
        "in place:",
        "",
        "```python",
        *loader(model, batch_size, seq_len).splitlines(),
        "```",
        "",
    ]
    if any(entry.key == RIGHT_PADDED for entry in model.metadata_props):
        lines += [
            "Attention reads the lengths of the examples, so padding has to be on the right, as this tokenizer puts "
            "it. Answers of examples with padding before a token are NaN.",
            "",
        ]
    return lines
