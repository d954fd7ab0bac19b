"""The bill of materials: valid by the standard's own schema, complete, and equal for equal inputs."""

from __future__ import annotations

import json
import sys
from email.message import Message
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from compress.artifact.manifest import versions
from compress.artifact.sbom import licences_of, model_licence, requirements, sbom_text
from compress.core.errors import ConfigError
from support.made_up import FACTS

MODEL = "e" * 64


def facts(**changes: Any) -> dict[str, Any]:
    return {**FACTS, "versions": versions(), **changes}


@pytest.fixture
def document() -> dict[str, Any]:
    pytest.importorskip("cyclonedx", reason="cyclonedx-python-lib is not installed")
    found: dict[str, Any] = json.loads(sbom_text(facts(), MODEL))
    return found


def test_it_is_valid() -> None:
    validation = pytest.importorskip("cyclonedx.validation.json", reason="cyclonedx-python-lib is not installed")
    pytest.importorskip("jsonschema", reason="cyclonedx-python-lib[json-validation] is not installed")
    from cyclonedx.schema import SchemaVersion

    check = validation.JsonStrictValidator(SchemaVersion.V1_6)
    assert check.validate_str(sbom_text(facts(), MODEL)) is None
    # The validator does find what is wrong.
    assert check.validate_str('{"bomFormat": "CycloneDX", "specVersion": "1.6", "components": [{}]}') is not None


def test_it_says_what_went_in(document: dict[str, Any]) -> None:
    made = document["metadata"]["component"]
    assert made["type"] == "machine-learning-model" and made["hashes"] == [{"alg": "SHA-256", "content": MODEL}]
    parts = {part["bom-ref"]: part for part in document["components"]}
    assert parts["model"]["name"] == "minilm" and parts["model"]["type"] == "machine-learning-model"
    values = {entry["name"]: entry["value"] for entry in parts["data:evaluation"]["properties"]}
    assert values == {"compress:examples": "872", "compress:fingerprint:sha256": "c" * 64}
    torch = parts["pypi:torch"]
    assert torch["version"] == metadata.version("torch") and torch["purl"].startswith("pkg:pypi/torch@")
    assert parts["pypi:numpy"]["licenses"]
    # What those need is there too, and every reference leads somewhere.
    assert "pypi:markupsafe" in parts
    needs = {entry["ref"]: entry.get("dependsOn", []) for entry in document["dependencies"]}
    assert {"model", "data:calibration", "data:evaluation", "compress"} <= set(needs["artifact"])
    assert "pypi:torch" in needs["compress"]
    assert {ref for others in needs.values() for ref in others} | set(needs) <= {*parts, "artifact"}


def test_equal_inputs_give_equal_bytes_and_others_another_number(document: dict[str, Any]) -> None:
    assert json.loads(sbom_text(facts(date="2031-01-01", seconds={}), MODEL)) == document
    assert "timestamp" not in document["metadata"]
    other = json.loads(sbom_text(facts(), "f" * 64))
    assert other["serialNumber"] != document["serialNumber"]


def test_names_from_outside_are_only_names() -> None:
    pytest.importorskip("cyclonedx", reason="cyclonedx-python-lib is not installed")
    text = sbom_text(facts(model={"name": 'a/"}],<script>', "sha256": "\u202e"}), MODEL)
    assert json.loads(text)["metadata"]["component"]["name"] == '"}],<script>, compressed'


def test_requirements_are_closed() -> None:
    found = requirements(["Jinja2", "no-such-distribution"])
    assert found == {"jinja2": ("markupsafe",), "markupsafe": ()}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([("License-Expression", "Apache-2.0"), ("License", "other")], ["Apache-2.0"]),
        ([("License", "BSD-3-Clause")], ["BSD-3-Clause"]),
        ([("License", "Permission is hereby granted\nto any person")], []),
        (
            [("License", "x" * 100), ("Classifier", "License :: OSI Approved :: MIT License"), ("Classifier", "Topic")],
            ["MIT License"],
        ),
        ([("License", "UNKNOWN")], []),
    ],
)
def test_licences_are_read_where_metadata_have_them(fields: list[tuple[str, str]], expected: list[str]) -> None:
    about = Message()
    for name, value in fields:
        about[name] = value.replace("\n", "\n  ")
    assert licences_of(about) == expected


def test_the_licence_of_a_model_card(tmp_path: Path) -> None:
    assert model_licence(str(tmp_path)) is None and model_licence("hub/name") is None
    (tmp_path / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# Model\nlicense: other\n")
    assert model_licence(str(tmp_path)) == "apache-2.0"
    (tmp_path / "README.md").write_text("# Model\nlicense: mit\n")
    assert model_licence(str(tmp_path)) is None


def test_without_the_library_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cyclonedx", "cyclonedx.model"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match="pip install cyclonedx-python-lib"):
        sbom_text(facts(), MODEL)
