"""Number formats to plan for and to keep: those of the target, the safest first, or a message about what is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from compress.core.errors import ConfigError, TargetError
from compress.inputs.precisions import candidates, formats_to_keep
from compress.options.run_config import make_config, resolve
from compress.pipeline.unstructured import refuse_contradictions
from compress.profile.target import load_target


@pytest.mark.parametrize(
    ("options", "planned", "kept"),
    [
        ({}, ("fp32",), ()),
        ({"precision": "auto"}, ("fp32", "int8"), ()),
        ({"keep": "int8, fp32"}, ("fp32", "int8"), ("fp32", "int8")),
        ({"keep": ["int8", "fp32"], "precision": "int8"}, ("int8",), ("fp32", "int8")),
        ({"keep": "int8"}, ("int8",), ("int8",)),
    ],
)
def test_formats_to_keep_are_the_candidates_unless_one_is_asked_for(
    options: dict[str, Any], planned: tuple[str, ...], kept: tuple[str, ...]
) -> None:
    config, target = resolve({"model": "m", **options}).config, load_target("cpu")
    assert candidates(config, target) == planned and formats_to_keep(config, target) == kept


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"keep": "fp32,fp32"}, "--keep names fp32 twice, got 'fp32,fp32'"),
        ({"keep": "fp32,int4"}, r"--keep must be of fp32, fp16, int8, with commas between \('int4' is none of them\)"),
        ({"keep": ""}, "--keep must be of fp32"),
        ({"keep": "auto"}, "'auto' is none of them"),
        ({"keep": "fp32", "precision": "int8"}, "--precision int8 says what model.onnx is, and --keep fp32 does not"),
    ],
)
def test_wrong_lists_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        resolve({"model": "m", **options})


def test_unstructured_says_that_keep_means_nothing_there() -> None:
    config = resolve({"model": "m", "keep": "fp32,int8", "unstructured": 0.1}).config
    with pytest.raises(ConfigError, match=r"--keep fp32,int8 and --unstructured 0.1: the compact file is int8"):
        refuse_contradictions(config)


def test_a_target_that_cannot_is_named() -> None:
    config = make_config({"model": "m", "keep": "fp32,fp16", "precision": "auto"})
    with pytest.raises(TargetError, match=r"--keep fp32,fp16: target 'cpu' .*has no fp16; it has fp32, int8"):
        candidates(config, load_target("cpu"))
    config = make_config({"model": "m", "keep": "fp32,int8", "precision": "int8"})
    with pytest.raises(TargetError, match=r"in engine/, one for an artifact; make one artifact for each"):
        candidates(config, load_target("cpu-openvino"))
