"""Laws of the export: ONNX = PyTorch on padded batches of any size, for dense and pruned models of every family."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from compress.core.errors import ExportError
from compress.core.plan import Widths
from compress.export import onnx as export
from compress.export.onnx import ExportReport, check_parity, export_onnx, read_report
from compress.export.runtime import open_session
from compress.export.session import Session
from compress.models.encoder import encoder_of, family_of, shape_of
from compress.profile.target import Target
from compress.pruning.removal import BiasOnly, NoAttention, remove
from support.exporter import export_once
from support.models import ALIKE, OF_IMAGES, TINY_SIZES, random_model
from support.once import Once
from support.structures import EMPTY, UNEVEN, first_units, padded_inputs

CPU = Target(name="test", device="any", runtime="onnxruntime-cpu", threads=1)
WHOLE = Widths((4,) * 3, (20,) * 3)
# Families that are written like BERT have what is whole, cut and gone in one model.
CASES = [
    pytest.param((family, widths), marks=pytest.mark.slow if family in ALIKE else [])
    for family in sorted(TINY_SIZES)
    for widths in (WHOLE, UNEVEN, EMPTY)
    if family not in ALIKE or widths == UNEVEN
]


def forward(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    logits: torch.Tensor = model(**inputs).logits
    return logits


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1].heads}-{case[1].filters}")
def exported(request: pytest.FixtureRequest, once: Once) -> tuple[str, Any, Path, ExportReport]:
    """Family, model, file and report of each case."""
    family, widths = request.param
    model = random_model(family)
    remove(model, first_units(widths))
    path = export_once(once, model, list(padded_inputs(family)))
    return family, model, path, read_report(path)


def test_onnx_equals_pytorch_with_padding_at_any_size(exported: tuple[str, Any, Path, ExportReport]) -> None:
    family, model, path, _ = exported
    session = open_session(path, CPU)
    sizes = [(1, 1), (1, 7), (2, 2), (3, 9), (5, 40)]
    batches = [padded_inputs(family, batch, length, seed=length) for batch, length in sizes]
    assert check_parity(session, model, batches, forward, tolerance=1e-5) <= 1e-5


def test_inputs_output_and_dynamic_axes(exported: tuple[str, Any, Path, ExportReport]) -> None:
    family, _, path, _ = exported
    graph = onnx.load(str(path)).graph
    axes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in [*graph.input, *graph.output]
    }
    names = list(padded_inputs(family))
    image = {"pixel_values": ["batch", 3, 16, 16]}
    inputs = image if family in OF_IMAGES else {name: ["batch", "sequence"] for name in names}
    assert axes == {**inputs, "logits": ["batch", 2]}
    assert list(open_session(path, CPU).input_names) == names


def test_report_counts_what_is_in_the_file(exported: tuple[str, Any, Path, ExportReport]) -> None:
    family, model, path, report = exported
    attentions = sum(width > 0 for width in _heads(model)) if family_of(family).attention_kind else 0
    assert report.fusions == ({"MultiHeadAttention": attentions} if attentions else {})
    assert report.size_bytes == path.stat().st_size
    assert report.nodes == len(onnx.load(str(path)).graph.node)


def _heads(model: Any) -> tuple[int, ...]:
    from compress.models.encoder import widths_of

    return widths_of(model).heads


def test_parameters_keep_their_names_and_nothing_tells_of_the_machine(
    exported: tuple[str, Any, Path, ExportReport],
) -> None:
    family, model, path, _ = exported
    proto = onnx.load(str(path))
    assert all(dim > 0 for tensor in proto.graph.initializer for dim in tensor.dims)
    assert str(Path(__file__).parents[2]).encode() not in path.read_bytes()
    assert b".py" not in path.read_bytes()
    weights = {t.name for t in proto.graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    emptied = {f"{name}.bias" for name, module in model.named_modules() if isinstance(module, BiasOnly)}
    parameters = {name for name, _ in model.named_parameters()}
    for layer in encoder_of(model):
        # A matrix that holds queries, keys and values comes apart.
        if layer.inputs("attention")["query"] > 1:
            parameters.discard(f"{layer.name('query')}.weight")
            if not isinstance(layer.get("attention"), NoAttention):
                parameters |= {f"{layer.exported_name(role)}.weight" for role in ("query", "key", "value")}
    # Tables of relative positions go with the attention: without heads they are unused, with heads they need constants.
    positions = ("relative_attention_bias", "rel_embeddings", "encoder.LayerNorm")
    unused = {name for name in parameters if any(part in name for part in positions) and not any(_heads(model))}
    if family_of(family).ffn_sum is None:
        # Norms before sublayers go with what reads them.
        unused |= {name for name in parameters if "norm" in name}
    buffers = {name for name, _ in model.named_buffers()}
    assert parameters - emptied - unused <= {name for name in weights if "." in name} <= parameters | buffers
    if family not in ("deberta-v2", "modernbert", "mpnet", *OF_IMAGES):
        assert len(weights) == len(list(model.parameters()))


def test_export_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = random_model("bert").train()
    before, names = copy.deepcopy(model.state_dict()), [name for name, _ in model.named_modules()]
    export_onnx(model, tmp_path / "model.onnx", input_names=list(padded_inputs("bert")))
    assert model.training and [name for name, _ in model.named_modules()] == names
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.eval()(**padded_inputs("bert"))


def test_export_is_quiet_and_repeatable(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = random_model("distilbert")
    for name in ("a.onnx", "b.onnx"):
        report = export_onnx(model, tmp_path / name, input_names=list(padded_inputs("distilbert")))
        assert report == read_report(tmp_path / name)
    assert capfd.readouterr() == ("", "")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_a_failed_export_restores_the_model_and_explains(tmp_path: Path) -> None:
    model = random_model("bert")
    expected = forward(model, padded_inputs("bert"))
    with pytest.raises(ExportError, match="could not export this bert model with inputs input_ids and output start"):
        export_onnx(model, tmp_path / "model.onnx", input_names=["input_ids"], output_names=["start_logits"])
    assert torch.equal(forward(model, padded_inputs("bert")), expected)
    assert list(tmp_path.iterdir()) == []


def test_a_length_that_the_exporter_makes_a_constant_is_refused(tmp_path: Path) -> None:
    model = random_model("bert")
    for layer in model.bert.encoder.layer:
        layer.chunk_size_feed_forward = 4
    with pytest.raises(ExportError, match="one fixed length, 16, for 'input_ids'"):
        export_onnx(model, tmp_path / "model.onnx", input_names=list(padded_inputs("bert")))
    assert list(tmp_path.iterdir()) == []


def test_large_weights_go_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "EXTERNAL_DATA_ABOVE_BYTES", 1000)
    model, path = random_model("bert"), tmp_path / "model.onnx"
    # A leftover of another export must not stay in the new one.
    (tmp_path / "model.onnx.data").write_bytes(b"x" * 10**6)
    report = export_onnx(model, path, input_names=list(padded_inputs("bert")))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert report.size_bytes == sum(file.stat().st_size for file in tmp_path.iterdir()) < 10**6
    assert check_parity(open_session(path, CPU), model, [padded_inputs("bert")], forward, 1e-5) <= 1e-5


class _Fixed:
    """A session that always gives the same answer."""

    input_names = ("input_ids",)

    def __init__(self, answer: np.ndarray[Any, Any]) -> None:
        self._answer = answer

    def run(self, feed: Any) -> np.ndarray[Any, Any]:
        return self._answer

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (np.full((3, 2), 9e9, np.float32), "differs from PyTorch by 9e"),
        (np.full((3, 2), np.nan, np.float32), "differs from PyTorch by nan"),
        (np.zeros((3, 5), np.float32), r"gives shape \(3, 5\), PyTorch gives \(3, 2\)"),
    ],
)
def test_parity_is_refused(answer: np.ndarray[Any, Any], words: str) -> None:
    session: Session = _Fixed(answer)
    with pytest.raises(ExportError, match=words):
        check_parity(session, random_model("bert"), [padded_inputs("bert")], forward)


def test_parity_of_nothing_is_refused() -> None:
    with pytest.raises(ExportError, match="no batch to compare"):
        check_parity(_Fixed(np.zeros((3, 2))), random_model("bert"), [], forward)


def test_report_of_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="there is no model file"):
        read_report(tmp_path / "model.onnx")
    (tmp_path / "model.onnx").write_text("not a model")
    with pytest.raises(ExportError, match="is not an ONNX model"):
        read_report(tmp_path / "model.onnx")


@pytest.mark.slow
def test_real_checkpoint(minilm: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(minilm, dtype=torch.float32).eval()
    shape = shape_of(model.config)
    remove(model, first_units(Widths((12, 3, 0, 1, 8, 7), (1536, 0, 17, 512, 640, 8))))
    names = ["input_ids", "attention_mask", "token_type_ids"]
    report = export_onnx(model, tmp_path / "model.onnx", input_names=names)
    assert report.fusions == {"MultiHeadAttention": shape.layers - 1}
    batches = [padded_inputs("bert", 4, 64)]
    assert check_parity(open_session(tmp_path / "model.onnx", CPU), model, batches, forward, 1e-4) <= 1e-4
