"""config.pbtxt: what Triton Inference Server has to know of a model.

Source: Triton's documentation, "Model Configuration" and "Model Repository". The first axis of every input and output
is the batch, so it is left out of ``dims``; -1 is an axis of any size.
"""

from __future__ import annotations

from typing import Any

from onnx import ModelProto, TensorProto

_TYPES = {TensorProto.INT64: "TYPE_INT64", TensorProto.INT32: "TYPE_INT32", TensorProto.FLOAT: "TYPE_FP32"}
# Calls that wait this long at most for others of their shape.
QUEUE_MICROSECONDS = 100


def config_text(model: ModelProto, name: str, max_batch_size: int, *, on_gpu: bool, labels: bool) -> str:
    """Returns the text of config.pbtxt.

    Args:
        model: the file; its weights are not looked at.
        name: of the model, and of its folder in the repository.
        max_batch_size: examples per call at most, above 0.
        on_gpu: whether it runs on a GPU.
        labels: whether labels.txt names the classes of the output ``logits``.
    """
    kind = "KIND_GPU" if on_gpu else "KIND_CPU"
    lines = [f'name: "{name}"', 'platform: "onnxruntime_onnx"', f"max_batch_size: {max_batch_size}"]
    lines += [_values("input", model.graph.input, labels=False)]
    lines += [_values("output", model.graph.output, labels=labels)]
    lines += [f"instance_group [\n  {{\n    kind: {kind}\n    count: 1\n  }}\n]"]
    lines += [f"dynamic_batching {{\n  max_queue_delay_microseconds: {QUEUE_MICROSECONDS}\n}}"]
    return "\n".join(lines) + "\n"


def _values(kind: str, values: Any, *, labels: bool) -> str:
    entries = []
    for value in values:
        tensor = value.type.tensor_type
        dims = ", ".join(str(axis.dim_value or -1) for axis in list(tensor.shape.dim)[1:])
        named = '\n    label_filename: "labels.txt"' if labels and value.name == "logits" else ""
        lines = [f'name: "{value.name}"', f"data_type: {_TYPES[tensor.elem_type]}", f"dims: [ {dims} ]{named}"]
        entries.append("  {\n" + "\n".join(f"    {line}" for line in lines) + "\n  }")
    return f"{kind} [\n" + ",\n".join(entries) + "\n]"
