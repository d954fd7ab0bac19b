"""AOTInductor: a package answers like PyTorch at every shape, and is loaded only where its code runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress.artifact.files import PACKAGE_FILES
from compress.core.errors import ExportError, TargetError
from compress.core.plan import Widths
from compress.export import aotinductor
from compress.export.aotinductor import Interface, open_package
from compress.export.aotinductor_record import PACKAGE, check_record, read_record, record_of, record_path, write_record
from compress.export.lowering import Engine, variants
from compress.export.runtime import file_of, open_session, require_builder, require_runtime
from compress.profile.device import describe_device
from compress.profile.target import load_target, offered_precisions
from compress.pruning.removal import narrow_to
from support.models import random_model
from support.once import Once
from support.structures import padded_inputs

TARGET, ON_GPU = load_target("cpu-aotinductor"), load_target("h100-aotinductor")
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def test_an_artifact_knows_the_files_of_a_package() -> None:
    assert (PACKAGE.as_posix(), record_path(PACKAGE).as_posix()) == PACKAGE_FILES


def test_the_target_says_what_it_runs_on() -> None:
    with pytest.raises(TargetError, match="no int8"):
        variants(ON_GPU, "int8")
    assert offered_precisions(TARGET, "auto") == ("fp32",) and variants(TARGET, "fp32") == (Engine("fp32", "compiled"),)
    assert describe_device(TARGET)["torch"] == torch.__version__
    # The same runtime on a GPU is planned from the data sheet where there is none.
    assert (TARGET.on_gpu, ON_GPU.on_gpu, ON_GPU.compute_capability) == (False, True, "9.0")
    assert offered_precisions(ON_GPU, "auto") == ("fp32", "fp16") and ON_GPU.missing_for("fp16") == []
    assert file_of(Path("out/model.onnx"), "aotinductor") == Path("out/engine/model.pt2")


@pytest.mark.parametrize("check", [require_runtime, require_builder])
def test_a_missing_compiler_is_named_before_any_work(
    check: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor.exc import InvalidCxxCompiler

    def none() -> str:
        raise InvalidCxxCompiler

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", none)
    with pytest.raises(TargetError, match=r"no C\+\+ compiler here: install one.*CXX") as caught:
        check(TARGET)
    assert caught.value.exit_code == 3


def written(folder: Path, **changes: Any) -> Path:
    """A made-up package with a record of this machine, but for these entries."""
    package = folder / PACKAGE
    package.parent.mkdir(parents=True)
    package.write_bytes(b"machine code")
    (folder / "model.onnx").write_bytes(b"weights")
    write_record(package, record_of(TARGET, "fp32", 1, INPUTS, ("logits",)))
    raw = json.loads(record_path(package).read_text())
    record_path(package).write_text(json.dumps({**raw, **changes}))
    return package


def test_a_package_of_this_machine_is_taken(tmp_path: Path) -> None:
    package = written(tmp_path)
    check_record(package, TARGET)
    assert read_record(package).inputs == INPUTS and "any batch size and length" in read_record(package).said


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"torch": "1.0.0"}, "torch 1.0.0, here"),
        ({"machine": "riscv64"}, "processor riscv64, here"),
        ({"features": ["avx2048"]}, "avx2048, which this one lacks"),
        ({"compute_capability": "9.0"}, "compute capability 9.0, here the processor"),
        ({"model_sha256": "0" * 64}, "another model.onnx"),
        ({"package_sha256": "0" * 64}, "damaged"),
        ({"format": 99}, "format 99"),
        ({"threads": "many"}, "cannot be read"),
    ],
)
def test_one_of_another_case_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    package = written(tmp_path, **changes)
    with pytest.raises(TargetError, match=named) as caught:
        open_session(package, TARGET)
    assert "compress validate" in str(caught.value)


def test_a_package_without_a_record_or_without_itself_is_refused(tmp_path: Path) -> None:
    package = written(tmp_path)
    record_path(package).unlink()
    with pytest.raises(TargetError, match="its record"):
        open_package(package, TARGET)
    with pytest.raises(ExportError, match="there is no package"):
        open_package(tmp_path / "none.pt2", TARGET)
    with pytest.raises(ExportError, match="cannot load"):
        open_package(b"not a package", TARGET)


def test_what_torch_cannot_compile_is_an_error_of_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no kernel\nand a long trace")

    monkeypatch.setattr("torch.export.export", broken)
    interface = Interface(INPUTS, ("logits",), lambda model, inputs: (model(**inputs).logits,))
    with pytest.raises(ExportError, match="AOTInductor: no kernel; take a target"):
        aotinductor.keep_package(random_model("bert"), tmp_path / PACKAGE, interface, TARGET, "fp32")
    assert not list((tmp_path / "engine").iterdir())


@pytest.mark.slow
def test_a_pruned_model_answers_like_pytorch_at_every_shape(once: Once, tmp_path: Path) -> None:
    model = random_model("bert")
    layers = len(model.bert.encoder.layer)
    narrow_to(model, Widths((2, *(0,) * (layers - 1)), (*(0,) * (layers - 1), 8)))
    interface = Interface(
        INPUTS, ("logits", "last_hidden_state"), lambda model, inputs: (model(**inputs).logits, model(**inputs).logits)
    )
    folder = once(
        "aotinductor", lambda made: aotinductor.keep_package(model, made / PACKAGE, interface, TARGET, "fp32")
    )
    for source in (folder / PACKAGE, (folder / PACKAGE).read_bytes()):
        session = open_session(source, TARGET)
        for batch, length in ((3, 9), (1, 1), (1, 7), (5, 40)):
            inputs = padded_inputs("bert", batch, length)
            with torch.no_grad():
                expected = model(**inputs).logits.numpy()
            feed = {name: tensor.numpy() for name, tensor in inputs.items()}
            np.testing.assert_allclose(session.run(feed), expected, atol=1e-5)
        # It would read what lies behind its inputs.
        for wrong in (feed["input_ids"][:, :3], feed["input_ids"][:0], feed["input_ids"][0]):
            with pytest.raises(ExportError, match="takes inputs"):
                session.run({**feed, "input_ids": wrong})
        with pytest.raises(ExportError, match="at most 40 tokens, not 41"):
            session.run({name: np.ones((1, 41), np.int64) for name in feed})
        narrow = {name: value.astype(np.int32) for name, value in feed.items()}
        np.testing.assert_array_equal(session.run(narrow), session.run(feed))
        with pytest.raises(ExportError, match="needs input 'input_ids'"):
            session.run({})
        session.close()
        with pytest.raises(ExportError, match="is closed"):
            session.run(feed)
