"""An engine of TensorRT-RTX as an ONNX file for ONNX Runtime, whose provider then loads it instead of building one.

The file has one node, ``com.microsoft.EPContext``, which names the engine beside it. Sources: ONNX Runtime's
documentation, "EP Context Cache Feature Design"; how the two providers read it: ``onnx_ctx_model_helper.cc`` of
microsoft/onnxruntime (core/providers/nv_tensorrt_rtx) and of NVIDIA/TensorRT-RTX-EP-ABI, whose package is
``onnxruntime-ep-nv-tensorrt-rtx``. It has not been loaded by either: that needs a GPU.
"""

from __future__ import annotations

from pathlib import Path

from onnx import helper, save_model

from compress.export.engine_session import read_graph
from compress.export.graph import FUSED_DOMAIN
from compress.export.tensorrt_file import RtxRecord, context_path, engine_path

_NODE = "engine"


def write_context(model: Path, record: RtxRecord) -> None:
    """Write the ONNX file of an engine, beside it.

    Args:
        model: the ONNX file that the engine was built from.
        record: of the engine.
    """
    graph = read_graph(model).graph
    inputs = [value for value in graph.input if value.name in record.inputs]
    outputs = [value for value in graph.output if value.name in record.outputs]
    node = helper.make_node(
        "EPContext",
        [value.name for value in inputs],
        [value.name for value in outputs],
        _NODE,
        domain=FUSED_DOMAIN,
        # 0: each node has an engine of its own, and the engine is a file, by its path from here.
        main_context=0,
        embed_mode=0,
        ep_cache_context=engine_path(model).name,
        # As the providers write it: 89 for 8.9.
        hardware_architecture=record.compute_capability.replace(".", ""),
        onnx_model_filename=model.name,
        partition_name=_NODE,
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(FUSED_DOMAIN, 1)]
    context = helper.make_model(
        helper.make_graph([node], "engine", inputs, outputs),
        opset_imports=opsets,
        ir_version=10,
        producer_name="compress",
    )
    save_model(context, str(context_path(model)))
