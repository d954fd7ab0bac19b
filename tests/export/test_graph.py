"""Laws of graph surgery: narrowed = removed and exported, for any widths; what is cut off leaves no trace."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compress.core.errors import ExportError, PlanError
from compress.core.plan import EncoderShape, Structure, Widths
from compress.export import graph
from compress.export.filling import fill
from compress.export.narrowing import narrow
from compress.export.onnx import export_onnx
from compress.export.runtime import open_session
from compress.models.encoder import Encoder, encoder_of, shape_of
from compress.profile.target import Target
from compress.pruning.removal import remove
from support.exporter import export_once
from support.models import ALIKE, OF_IMAGES, TINY_SIZES, DenseOnnx, random_model
from support.once import Once
from support.structures import EMPTY, UNEVEN, first_units, padded_inputs
from support.thorough import examples

CPU = Target(name="test", device="any", runtime="onnxruntime-cpu", threads=1)
FAMILIES = sorted(set(TINY_SIZES) - set(ALIKE))
# What takes an export of its own.
IN_TURN = [pytest.param(family, marks=[] if family == "bert" else pytest.mark.slow) for family in FAMILIES]


@dataclass(frozen=True)
class Dense:
    """A dense model and its exported graph."""

    family: str
    model: Any
    proto: onnx.ModelProto

    @property
    def encoder(self) -> Encoder:
        return encoder_of(self.model)


@pytest.fixture(scope="module")
def dense(dense_onnx: DenseOnnx) -> dict[str, Dense]:
    """Each family, exported once."""
    made = {}
    for family in FAMILIES:
        made[family] = Dense(family, random_model(family), onnx.load(str(dense_onnx(family))))
    return made


def _widths(shape: EncoderShape) -> st.SearchStrategy[Widths]:
    heads, filters = (st.tuples(*[st.integers(0, units)] * shape.layers) for units in (shape.heads, shape.filters))
    return st.builds(Widths, heads=heads, filters=filters)


CASES = st.sampled_from(FAMILIES).flatmap(
    lambda family: st.tuples(st.just(family), _widths(shape_of(random_model(family).config)))
)


def _run(proto: onnx.ModelProto, inputs: dict[str, torch.Tensor]) -> Any:
    session = open_session(proto.SerializeToString(), CPU)
    return session.run({name: tensor.numpy() for name, tensor in inputs.items()})


@given(case=CASES)
@examples(40)
def test_narrow_equals_remove(dense: dict[str, Dense], case: tuple[str, Widths]) -> None:
    family, widths = case
    model = copy.deepcopy(dense[family].model)
    remove(model, first_units(widths))
    inputs = padded_inputs(family)
    with torch.no_grad():
        expected = model(**inputs).logits.numpy()
    narrowed = narrow(dense[family].proto, dense[family].encoder, widths)
    np.testing.assert_allclose(_run(narrowed, inputs), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("widths", [UNEVEN, EMPTY])
def test_narrow_gives_the_graph_of_remove_and_export(
    dense: dict[str, Dense], family: str, widths: Widths, once: Once
) -> None:
    # The same operators on the same sizes: what is timed while profiling is what gets deployed.
    model = copy.deepcopy(dense[family].model)
    remove(model, first_units(widths))
    exported = onnx.load(str(export_once(once, model, list(padded_inputs(family)))))
    narrowed = narrow(dense[family].proto, dense[family].encoder, widths)

    def form(proto: onnx.ModelProto) -> list[Any]:
        sizes = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
        # What angles and windows are made of, the exporter may share between layers in another way.
        rotary = dense[family].encoder.family.attention_kind == "rotary"
        return [
            (
                node.op_type,
                [sizes[name] for name in node.input if name in sizes],
                [(attribute.name, attribute.i, attribute.f) for attribute in node.attribute],
            )
            for node in proto.graph.node
            if not rotary
            or node.op_type == "MultiHeadAttention"
            or any(math.prod(sizes.get(name, ())) >= 20 for name in node.input)
        ]

    assert form(narrowed) == form(exported)
    np.testing.assert_allclose(
        _run(narrowed, padded_inputs(family)), _run(exported, padded_inputs(family)), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("family", IN_TURN)
def test_parameters_that_are_equal_stay_apart(family: str, tmp_path: Path) -> None:
    # A fresh model has biases of zeros only; the exporter stores equal tensors once.
    model = random_model(family)
    encoder = encoder_of(model)
    first = encoder.layers[0]
    for layer in encoder:
        for role in ("query", "key", "value", "attention_output", "ffn_input", "ffn_output"):
            if layer.get(role).bias is not None:
                torch.nn.init.zeros_(layer.get(role).bias)
            layer.get(role).weight.data.copy_(first.get(role).weight.data)
    export_onnx(model, tmp_path / "model.onnx", input_names=list(padded_inputs(family)))
    proto = onnx.load(str(tmp_path / "model.onnx"))
    names = [tensor.name for tensor in proto.graph.initializer]
    assert len(set(names)) == len(names)
    for layer in encoder:
        for role in ("key", "ffn_output"):
            assert f"{layer.exported_name(role)}.weight" in names
            assert (f"{layer.exported_name(role)}.bias" in names) == (layer.get(role).bias is not None)
    widths = Widths((2, 0, 3), (0, 7, 5))
    narrowed = narrow(proto, encoder, widths)
    remove(model, first_units(widths))
    inputs = padded_inputs(family)
    with torch.no_grad():
        expected = model(**inputs).logits.numpy()
    np.testing.assert_allclose(_run(narrowed, inputs), expected, atol=1e-5, rtol=0)


@given(case=CASES)
@examples(20)
def test_narrow_leaves_no_empty_or_unused_weight(dense: dict[str, Dense], case: tuple[str, Widths]) -> None:
    family, widths = case
    proto = narrow(dense[family].proto, dense[family].encoder, widths)
    onnx.checker.check_model(proto)
    used = {name for node in proto.graph.node for name in node.input}
    for tensor in proto.graph.initializer:
        assert tensor.name in used and all(size > 0 for size in tensor.dims)
    heads = [width for width in widths.heads if width]
    assert graph.fusions(proto).get("MultiHeadAttention", 0) == len(heads)
    assert [value.name for value in proto.graph.input] == list(padded_inputs(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_argument_is_not_changed(dense: dict[str, Dense], family: str) -> None:
    proto = dense[family].proto
    before = proto.SerializeToString(deterministic=True)
    narrow(proto, dense[family].encoder, Widths((1, 0, 2), (3, 0, 4)))
    if family not in OF_IMAGES:
        graph.trim_vocabulary(proto, 50)
    graph.tidy(proto)
    assert proto.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("family", FAMILIES)
def test_tidy_is_idempotent(dense: dict[str, Dense], family: str) -> None:
    proto = dense[family].proto
    assert graph.tidy(proto) == proto


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(OF_IMAGES)))
def test_trimmed_vocabulary_computes_the_same(dense: dict[str, Dense], family: str) -> None:
    proto, inputs = dense[family].proto, padded_inputs(family)
    inputs["input_ids"] = inputs["input_ids"] % 50
    trimmed = graph.trim_vocabulary(proto, 50)
    assert len(proto.SerializeToString()) - len(trimmed.SerializeToString()) >= 150 * 24 * 4
    np.testing.assert_array_equal(_run(trimmed, inputs), _run(proto, inputs))
    narrowed = narrow(trimmed, dense[family].encoder, Widths((1, 0, 2), (3, 0, 4)))
    assert np.isfinite(_run(narrowed, inputs)).all()


def test_widths_that_do_not_fit(dense: dict[str, Dense]) -> None:
    for widths in (Widths((1,), (1,)), Widths((5, 1, 1), (1, 1, 1)), Widths((1, 1, 1), (1, 21, 1))):
        with pytest.raises(PlanError):
            narrow(dense["bert"].proto, dense["bert"].encoder, widths)


def test_a_foreign_or_narrowed_graph_is_refused(dense: dict[str, Dense]) -> None:
    with pytest.raises(ExportError, match="no parameter 'bert"):
        narrow(dense["distilbert"].proto, dense["bert"].encoder, Widths((1,) * 3, (1,) * 3))
    narrowed = narrow(dense["bert"].proto, dense["bert"].encoder, Widths((1,) * 3, (1,) * 3))
    with pytest.raises(ExportError, match="only dense graphs"):
        narrow(narrowed, dense["bert"].encoder, Widths((2,) * 3, (2,) * 3))


def test_offline_fusion_computes_the_same(dense: dict[str, Dense]) -> None:
    for family in FAMILIES:
        fused = graph.fuse_offline(dense[family].proto)
        counts = graph.fusions(fused)
        # Norms come after sums; before them, those of sums that go on as residual too.
        assert counts["MultiHeadAttention"] == 3
        assert counts.get("SkipLayerNormalization") == 6 or dense[family].encoder.family.ffn_sum is None
        inputs = padded_inputs(family)
        np.testing.assert_allclose(_run(fused, inputs), _run(dense[family].proto, inputs), atol=1e-5, rtol=0)


def test_no_vocabulary_to_trim() -> None:
    with pytest.raises(ExportError, match="no vocabulary to trim"):
        graph.trim_vocabulary(onnx.ModelProto(), 5)


def _changed(model: Any, widths: Widths) -> Any:
    """A pruned model with other weights than the dense one, and other units than the first."""
    changed, shape = copy.deepcopy(model), encoder_of(model).shape
    kept = Structure(
        heads=tuple(tuple(range(shape.heads - width, shape.heads)) for width in widths.heads),
        filters=tuple(tuple(range(shape.filters - width, shape.filters)) for width in widths.filters),
    )
    remove(changed, kept)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.mul_(1.01)
    return changed


FILLED = [pytest.param("bert"), *(pytest.param(family, marks=pytest.mark.slow) for family in ("mpnet", "deberta-v2"))]


@pytest.mark.parametrize("family", FILLED)
def test_a_filled_graph_is_what_an_export_writes(dense: dict[str, Dense], family: str, once: Once) -> None:
    model = _changed(dense[family].model, UNEVEN)
    filled = fill(dense[family].proto, dense[family].encoder, model)
    assert filled is not None
    exported = onnx.load(str(export_once(once, model, list(padded_inputs(family)))))
    np.testing.assert_array_equal(_run(filled, padded_inputs(family)), _run(exported, padded_inputs(family)))


@given(case=CASES)
@examples(20)
def test_a_filled_graph_computes_what_the_model_does(dense: dict[str, Dense], case: tuple[str, Widths]) -> None:
    family, widths = case
    model, inputs = _changed(dense[family].model, widths), padded_inputs(family)
    filled = fill(dense[family].proto, dense[family].encoder, model)
    # A matrix that the graph has in parts is not filled.
    assert filled is not None or family == "modernbert"
    if filled is not None:
        with torch.no_grad():
            np.testing.assert_allclose(_run(filled, inputs), model(**inputs).logits.numpy(), atol=1e-5, rtol=0)


def test_another_model_is_not_filled(dense: dict[str, Dense]) -> None:
    model = copy.deepcopy(dense["bert"].model)
    assert fill(dense["bert"].proto, encoder_of(_changed(model, dense["bert"].encoder.shape.dense)), model) is None


@pytest.mark.slow
def test_a_tensor_that_stands_for_several_weights_is_not_filled(once: Once) -> None:
    # The exporter stores equal tensors once: here all norms are one.
    dense = random_model("bert")
    norms = [name for name, module in dense.named_modules() if isinstance(module, torch.nn.LayerNorm)]
    with torch.no_grad():
        for name in norms:
            dense.get_submodule(name).weight.fill_(1.0)
    pattern = onnx.load(str(export_once(once, dense, list(padded_inputs("bert")))))
    assert fill(pattern, encoder_of(dense), copy.deepcopy(dense)) is not None
    for name in (norms[0], norms[-1]):
        model = copy.deepcopy(dense)
        with torch.no_grad():
            model.get_submodule(name).weight.mul_(1.5)
        assert fill(pattern, encoder_of(dense), model) is None


@pytest.mark.parametrize("limit", [0, 2**31])
def test_a_moved_file_takes_its_weights_along(tmp_path: Path, limit: int) -> None:
    weights = onnx.numpy_helper.from_array(np.arange(5000, dtype=np.float32), "w")
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [5000])
    nodes = [onnx.helper.make_node("Identity", ["w"], ["y"])]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [output], [weights]))
    source, place = tmp_path / "model.onnx", tmp_path / "model_fp32.onnx"
    graph.save(model, source, limit)
    size = graph.size_bytes(source)
    graph.move(source, place)
    beside = [] if limit else ["model_fp32.onnx.data"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model_fp32.onnx", *beside]
    assert graph.size_bytes(place) == pytest.approx(size, abs=100)
    found = onnx.load(str(place)).graph.initializer[0]
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(found), np.arange(5000))
