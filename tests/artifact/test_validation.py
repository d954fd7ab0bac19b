"""validation.json: read and written again to the identical bytes, and read section by section whatever it holds."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from compress.artifact.files import compact, dump
from compress.artifact.outcomes import Outcomes
from compress.artifact.summary import how_timed, row_of, rows
from compress.artifact.validation import READING, KeptFile, Metric, Parity, Sections, Validation, schema
from support.made_up import PLAN, VALIDATION, estimated

GOLDENS = sorted((Path(__file__).parents[1] / "goldens").glob("*/*/validation.json"))
SCHEMA = Path(__file__).parents[2] / "docs" / "validation.schema.json"


@pytest.fixture(params=GOLDENS, ids=lambda file: f"{file.parents[1].name}-{file.parent.name}")
def golden(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


def test_a_document_is_written_again_as_it_was(golden: Path) -> None:
    document = json.loads(golden.read_text())
    assert dump(Validation.model_validate(document, context=READING).to_json()) == golden.read_text()
    assert Sections.of(document).to_json() == document


def test_so_are_the_outcomes(golden: Path) -> None:
    text = golden.with_name("outcomes.json").read_text()
    assert compact(Outcomes.from_json(json.loads(text)).to_json()) == text


def test_the_published_schema_is_that_of_the_model() -> None:
    written = json.dumps(schema(), indent=1) + "\n"
    assert SCHEMA.read_text() == written, "write docs/validation.schema.json again: json.dumps(schema(), indent=1)"


def test_documents_conform_to_the_published_schema(golden: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    published = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(published)
    jsonschema.validate(json.loads(golden.read_text()), published)
    jsonschema.validate(VALIDATION, published)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**VALIDATION, "verdict": "perhaps"}, published)


def with_kept(**changes: Any) -> dict[str, Any]:
    """The made-up document with an int8 file beside model.onnx."""
    own = ("latency_ms", "speedup", "metric", "size_bytes", "parity", "verdict", "reason")
    kept = {name: VALIDATION[name] for name in own}
    kept |= {"file": "model_quantized.onnx", "precision": "int8", "engine": {"precision": "int8"}, **changes}
    return {**VALIDATION, "kept": [kept]}


def test_a_file_beside_the_model_is_asked_like_the_model() -> None:
    found = Validation.model_validate(with_kept(verdict="fail", parity={"max_abs_diff": 0.5}), context=READING)
    assert found.to_json() == with_kept(verdict="fail", parity={"max_abs_diff": 0.5})
    about = found.about("model_quantized.onnx")
    assert about is not None and found.about("model.onnx") is None
    assert (about.verdict, about.parity.max_abs_diff, about.macs) == ("fail", 0.5, found.macs)
    assert about.deployment.precision == "int8" and about.deployment.device == found.deployment.device
    # What is on record of model.onnx alone is not said of the other.
    assert about.invariance is None and about.slices is None
    kept = found.kept[0]
    again = KeptFile.of(kept.file, about)
    assert (again.file, again.precision, again.verdict, again.parity) == (kept.file, "int8", "fail", kept.parity)


def test_what_a_later_version_adds_is_kept() -> None:
    document = {**VALIDATION, "new": [1], "parity": {**VALIDATION["parity"], "newer": None}}
    assert Validation.model_validate(document).to_json() == document


def test_a_run_writes_what_it_measured_and_a_reader_refuses_what_is_no_number() -> None:
    parity = Parity(max_abs_diff=math.nan)
    assert dump(parity.to_json()) == '{\n "max_abs_diff": NaN\n}\n'
    for value in (math.nan, math.inf, -1.0, 10**400, True, "1"):
        with pytest.raises(ValidationError):
            Parity.model_validate({"max_abs_diff": value}, context=READING)
    with pytest.raises(ValidationError):
        Metric.model_validate({**VALIDATION["metric"], "examples": 10**400}, context=READING)


def test_a_damaged_section_is_left_out_and_the_others_stay() -> None:
    for name in VALIDATION:
        found = Sections.of({**VALIDATION, name: {"other": 1}}).to_json()
        assert {key: found[key] for key in VALIDATION if key != name} == {
            key: value for key, value in VALIDATION.items() if key != name
        }
        assert getattr(Sections.of({**VALIDATION, name: {"other": 1}}), name) == getattr(Sections(), name)
    assert Sections.of(None).empty and Sections.of({"x": 1}).empty and not Sections.of(VALIDATION).empty


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*VALIDATION, "value", "rows", "dense", "ci95", "compressed"]), inner)
    ),
    max_leaves=12,
)


@given(json_values, st.sampled_from(list(VALIDATION)))
def test_reading_sections_never_raises(value: Any, name: str) -> None:
    Sections.of(value)
    found = Sections.of({**VALIDATION, name: value})
    assert Sections.of(found) == found
    rows(found, PLAN)


def test_the_result_table_has_what_was_measured() -> None:
    found = rows(Sections.of(VALIDATION), PLAN)
    assert [row.kind for row in found] == [
        *("latency", "speedup", "metric", "change", "size", "macs"),
        *("macs of one example", "drift"),
    ]
    latency, speedup, change = (row_of(found, kind) for kind in ("latency", "speedup", "change"))  # type: ignore[arg-type]
    assert (latency.dense, latency.compressed, latency.budget) == (10.0, 4.8, 5.0)
    assert latency.interval == (4.7, 4.95) and latency.how == speedup.how == "measured"
    assert (speedup.compressed, speedup.budget) == (2.0833, 2.0)
    assert (change.compressed, change.interval) == (-0.01, (-0.024, 0.004))
    assert row_of(found, "also").compressed is None


def test_the_result_table_says_what_is_predicted() -> None:
    found = Sections.of(estimated())
    latency, speedup = row_of(rows(found, PLAN), "latency"), row_of(rows(found, PLAN), "speedup")
    assert (latency.dense, latency.compressed, latency.interval, latency.how) == (10.0, 4.9, None, "predicted")
    assert (speedup.compressed, speedup.how) == (2.04, "predicted")
    assert how_timed(Sections(), PLAN) is None
