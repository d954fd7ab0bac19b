"""Readers of what others may have written, fuzzed: a ``CompressError`` or success, never anything else, and at once."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress import cli
from compress.artifact.manifest import NAME, read_manifest, sealed, write_manifest
from compress.artifact.verify import verify
from compress.core.errors import ArtifactError, CompressError
from compress.core.parsing import MOST_JSON_BYTES
from compress.core.plan import Budget, Plan, Structure
from compress.gate.breakdown import part_of, parts
from compress.gate.evidence import gather, read_validation
from compress.options.help import HELP
from compress.options.run_config import resolve
from compress.profile.latency_profile import Profile
from compress.profile.latency_table import fit_piecewise
from compress.profile.target import Target, load_target
from compress.report.why import explain
from support.gate_artifact import VALIDATION, make_artifact
from support.simulated_machine import SHAPE, planted_table

TABLE = planted_table()
PROFILE = Profile(
    table=TABLE,
    attention_fit=fit_piecewise(TABLE.heads, TABLE.attention_ms),
    ffn_fit=fit_piecewise(TABLE.filters, TABLE.ffn_ms),
    shape=SHAPE,
    batch_size=1,
    seq_len=8,
    precision="fp32",
    target="cpu",
    device={"processor": "x", "threads": 2},
    source="measured",
    date="2026-11-22",
)
PLAN = Plan(SHAPE, Structure.dense(SHAPE), Budget("macs", 0.5), "full", 0.5, predicted_ms=1.0, dense_ms=2.0)
OUTCOMES = {
    "format": 1,
    "metric": "accuracy",
    "combine": "mean",
    "evaluation_sha256": "e",
    "dense": [1.0, 0.0],
    "compressed": [1.0, 0.0],
}

# What a damaged or malicious document has where another value should be.
ODD = st.one_of(
    st.sampled_from(
        [None, True, -1, 0, 10**400, 1e308, 5e-324, float("inf"), float("nan"), "", "\ud800", "../../x", [], {}, [[]]]
    ),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers() | st.floats(), max_size=3),
)


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a document."""
    yield path
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, inner in items:
        yield from places(inner, (*path, key))


@st.composite
def mutated(draw: st.DrawFn, document: Any) -> bytes:
    """A valid document with values replaced, removed or added, or its text cut, flipped or no text at all."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        *folders, name = draw(st.sampled_from([path for path in places(document) if path]))
        inner = document
        for folder in folders:
            inner = inner[folder]
        kind = draw(st.sampled_from(["replace", "remove", "add", "nest"]))
        if kind == "remove":
            del inner[name]
        elif kind == "add" and isinstance(inner, dict):
            inner[draw(st.text(max_size=5))] = draw(ODD)
        elif kind == "nest":
            inner[name] = [[[[inner[name]]]]]
        else:
            inner[name] = draw(ODD)
        if not document:
            break
    text = json.dumps(document).encode()
    how = draw(st.sampled_from(["as it is", "as it is", "as it is", "cut", "flipped", "not UTF-8", "empty", "deep"]))
    place = draw(st.integers(0, max(0, len(text) - 1)))
    return {
        "as it is": text,
        "cut": text[:place],
        "flipped": text[:place] + bytes([text[place] ^ 32]) + text[place + 1 :],
        "not UTF-8": text[:place] + b"\xff\xfe" + text[place:],
        "empty": b"",
        "deep": b'{"a":' * 300,
    }[how]


def accepts_or_refuses(read: Callable[[], Any]) -> None:
    with contextlib.suppress(CompressError):
        read()


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = make_artifact(tmp_path_factory.mktemp("fuzzed") / "out", bulk=10, outcomes=[1.0, 0.0])
    (out / "plan.json").write_text(PLAN.to_json())
    (out / "profile.json").write_text(PROFILE.to_json())
    write_manifest(out, {k: v for k, v in read_manifest(out).items() if k not in ("files", "sha256")})
    return out


@pytest.fixture(scope="module")
def manifest(artifact: Path) -> dict[str, Any]:
    return read_manifest(artifact)


@given(content=mutated(json.loads(PLAN.to_json())))
@settings(max_examples=80)
def test_plans(content: bytes, artifact: Path) -> None:
    file = artifact.parent / "plan.json"
    file.write_bytes(content)

    def read() -> None:
        plan = Plan.read(file)
        assert Plan.from_json(plan.to_json()) == plan
        plan.explain()

    accepts_or_refuses(read)


@given(content=mutated(json.loads(PROFILE.to_json())))
@settings(max_examples=80)
def test_profiles(content: bytes, artifact: Path) -> None:
    file = artifact.parent / "profile.json"
    file.write_bytes(content)

    def read() -> None:
        profile = Profile.read(file)
        assert Profile.from_json(profile.to_json()) == profile
        profile.table.predict(profile.shape.dense)

    accepts_or_refuses(read)


@given(content=mutated(VALIDATION))
@settings(max_examples=80)
def test_validations(content: bytes, artifact: Path) -> None:
    file = artifact.parent / "validation.json"
    file.write_bytes(content)
    accepts_or_refuses(lambda: read_validation(artifact.parent))


@given(data=st.data())
@settings(max_examples=40)
def test_manifests(data: st.DataObject, artifact: Path, manifest: dict[str, Any]) -> None:
    content = data.draw(mutated(manifest))
    with contextlib.suppress(ValueError, RecursionError):
        # Half of them sealed, as one who means it would.
        if data.draw(st.booleans()) and isinstance(document := json.loads(content), dict):
            content = sealed(document).encode()
    before = (artifact / NAME).read_bytes()
    try:
        (artifact / NAME).write_bytes(content)
        accepts_or_refuses(lambda: verify(artifact))
        accepts_or_refuses(lambda: gather(artifact))
    finally:
        (artifact / NAME).write_bytes(before)


@given(data=st.data(), name=st.sampled_from(["validation.json", "outcomes.json", "config.json"]))
@settings(max_examples=40)
def test_whole_gates(data: st.DataObject, name: str, artifact: Path, manifest: dict[str, Any]) -> None:
    """Records that the manifest vouches for, and that are nonsense all the same: an exit code, never "unexpected"."""
    document = {"validation.json": VALIDATION, "outcomes.json": OUTCOMES, "config.json": {"vocab_size": 50}}[name]
    before = (artifact / name).read_bytes()
    try:
        (artifact / name).write_bytes(data.draw(mutated(document)))
        write_manifest(artifact, {k: v for k, v in manifest.items() if k not in ("files", "sha256")})
        limits = ["--max-latency-ms", "5", "--min-speedup", "2", "--max-drop", "1 %", "--max-size-mb", "60 %"]
        limits += ["--max-drop", "0.1 against baseline", "--max-macs", "0.5", "--max-parity", "1", "--json"]
        limits += ["--max-latency-ms", "150 % of baseline", "--min-accuracy", "99 % of dense"]
        # Ends with a code of its own; anything unexpected would be raised under --debug, and be a 3 without its class.
        from compress.cli.artifact_commands import gate

        with contextlib.suppress(CompressError):
            gate.main(["--baseline", str(artifact), *limits, str(artifact)], standalone_mode=False)
    finally:
        (artifact / name).write_bytes(before)
        write_manifest(artifact, {k: v for k, v in manifest.items() if k not in ("files", "sha256")})


TARGET = {
    "device": "x",
    "runtime": "onnxruntime-cpu",
    "threads": 2,
    "peak_flops": {"fp32": 1e12},
    "tile_sizes": [[8, 8]],
}


@given(data=st.data())
@settings(max_examples=60)
def test_targets(data: st.DataObject, artifact: Path) -> None:
    key = data.draw(st.sampled_from([*Target.model_fields, "other", "a.b"]))
    value = data.draw(
        st.sampled_from(["inf", "nan", "-1", "1e400", '"x"', "[]", "[[]]", "{a = 1}", "1979-05-27", "true"])
    )
    lines = [
        f"{name} = {json.dumps(value).replace(':', ' =').replace(chr(34) + 'fp32' + chr(34), 'fp32')}"
        for name, value in TARGET.items()
    ]
    text = "\n".join([*(line for line in lines if not line.startswith(f"{key} ")), f"{key} = {value}"]).encode()
    place = data.draw(st.integers(0, len(text)))
    how = data.draw(st.sampled_from(["as it is", "cut", "not UTF-8", "deep"]))
    more = {
        "as it is": text,
        "cut": text[:place],
        "not UTF-8": text[:place] + b"\xff",
        "deep": text + b"\nq = " + b"[" * 9000,
    }
    file = artifact.parent / "target.toml"
    file.write_bytes(more[how])
    accepts_or_refuses(lambda: load_target(str(file)))


def test_enormous_files(artifact: Path) -> None:
    for name, read in (
        ("plan.json", Plan.read),
        ("profile.json", Profile.read),
        ("validation.json", lambda file: read_validation(file.parent)),
        (NAME, lambda file: read_manifest(file.parent)),
        ("huge.toml", lambda file: load_target(str(file))),
    ):
        folder = artifact.parent / "enormous"
        folder.mkdir(exist_ok=True)
        with (folder / name).open("wb") as stream:
            stream.truncate(1000 * MOST_JSON_BYTES)
        with pytest.raises(CompressError, match="larger than"):
            read(folder / name)


def test_what_a_trade_off_may_not_be(artifact: Path) -> None:
    for text in ("[1]", "{", '[{"latency_ms": "x"}]', "[" * 5000):
        (artifact / "tradeoff.json").write_text(text)
        with pytest.raises(ArtifactError, match="damaged"):
            explain(artifact)
    (artifact / "tradeoff.json").unlink()


@given(content=st.binary(max_size=400))
@settings(max_examples=40)
def test_onnx_files_of_others(content: bytes, artifact: Path) -> None:
    folder = artifact.parent / "onnx"
    folder.mkdir(exist_ok=True)
    (folder / "model.onnx").write_bytes(content)
    accepts_or_refuses(lambda: parts(folder))


def test_damaged_onnx_files(artifact: Path, tmp_path: Path) -> None:
    good = (artifact / "model.onnx").read_bytes()
    for place in range(0, len(good), 97):
        (tmp_path / "model.onnx").write_bytes(good[:place])
        accepts_or_refuses(lambda: parts(tmp_path))
        (tmp_path / "model.onnx").write_bytes(good[:place] + bytes([good[place] ^ 0x41]) + good[place + 1 :])
        accepts_or_refuses(lambda: parts(tmp_path))


@pytest.mark.parametrize(
    ("weight", "part"),
    [
        ("bert.embeddings.word_embeddings.weight", "embeddings"),
        ("bert.encoder.layer.11.attention.self.query.weight", "layer 11 attention"),
        ("distilbert.transformer.layer.2.ffn.lin1.weight_quantized", "layer 2 ffn"),
        ("distilbert.transformer.layer.2.attention.q_lin.weight", "layer 2 attention"),
        ("mpnet.encoder.layer.0.attention.attn.q.weight", "layer 0 attention"),
        ("classifier.weight", "head and others"),
    ],
)
def test_parts_by_name(weight: str, part: str) -> None:
    assert part_of(weight) == part


def test_no_artifact_at_all(tmp_path: Path) -> None:
    assert cli.main(["gate", str(tmp_path), "--max-size-mb", "1"]) == 3


@given(name=st.sampled_from([*HELP, "gate", "other"]), value=ODD | st.dictionaries(st.text(max_size=3), ODD))
@settings(max_examples=80)
def test_configuration_files(name: str, value: Any, artifact: Path) -> None:
    file = artifact.parent / "compress.toml"
    # JSON's scalars and lists are TOML's, but for null and the spelling of what is no number.
    text = json.dumps(value)
    for old, new in (("null", '""'), ("Infinity", "inf"), ("NaN", "nan"), ('": ', '" = ')):
        text = text.replace(old, new)
    file.write_text(f"{name} = {text}\n")
    accepts_or_refuses(lambda: resolve({"model": "model"}, file))
