"""A small encoder as an ONNX graph of any widths, made without PyTorch."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from compress.core.plan import EncoderShape, Widths


def encoder_graph(shape: EncoderShape, widths: Widths) -> bytes:
    """Embedding, layers of attention and FFN with residual adds, first position; random weights."""
    random = np.random.default_rng(0)
    nodes, weights = [], []

    def weight(name: str, *dims: int) -> str:
        values = random.standard_normal(dims).astype(np.float32) / 10
        weights.append(numpy_helper.from_array(values, name))
        return name

    def node(operator: str, inputs: list[str], output: str, domain: str = "", **attributes: float) -> str:
        nodes.append(helper.make_node(operator, inputs, [output], domain=domain, **attributes))
        return output

    hidden = shape.hidden_size
    value = node("Gather", [weight("embeddings", 32, hidden), "input_ids"], "embedded")
    for layer, (heads, filters) in enumerate(zip(widths.heads, widths.filters, strict=True)):
        if heads:
            size = heads * shape.head_size
            projected = [
                node("MatMul", [value, weight(f"{layer}.{role}", hidden, size)], f"{layer}.{role}.out")
                for role in ("query", "key", "value")
            ]
            mixed = node("MultiHeadAttention", projected, f"{layer}.mixed", "com.microsoft", num_heads=heads)
            back = node("MatMul", [mixed, weight(f"{layer}.output", size, hidden)], f"{layer}.back")
            value = node("Add", [value, back], f"{layer}.attended")
        if filters:
            inner = node("MatMul", [value, weight(f"{layer}.up", hidden, filters)], f"{layer}.inner")
            active = node("Gelu", [inner], f"{layer}.active")
            back = node("MatMul", [active, weight(f"{layer}.down", filters, hidden)], f"{layer}.down.out")
            value = node("Add", [value, back], f"{layer}.done")
    weights.append(numpy_helper.from_array(np.array(0, dtype=np.int64), "first"))
    nodes.append(helper.make_node("Gather", [value, "first"], ["logits"], axis=1))
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", hidden])],
        weights,
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 10
    data: bytes = model.SerializeToString()
    return data
