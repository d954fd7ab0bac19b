"""Packages: the files of an artifact again, where another program looks for them, with a card that loads them.

The model is the same file, byte for byte: what the artifact's validation.json says holds for the package.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress._version import __version__
from compress.artifact.consumers import CONSUMERS, EMBEDDINGS, Consumer, Contents, type_in_javascript
from compress.artifact.directory import staged
from compress.artifact.files import BESIDE, CARD, COMPACT, ENGINE, MODEL, OF_THE_RUN, PYTORCH
from compress.artifact.manifest import read_manifest
from compress.artifact.verify import refuse_damage
from compress.core.errors import ArtifactError, ConfigError, did_you_mean
from compress.core.hashing import sha256_of
from compress.core.parsing import parse_json, read_text

# Examples per call that Triton gathers, where the artifact was not made for more.
MOST_GATHERED = 32


@dataclass(frozen=True)
class Packaged:
    """A package that was written.

    Attributes:
        directory: where it is.
        consumer: the program that it is for.
        files: their names in it.
        snippet: lines that load it.
        linked: whether its large files share the disk with the artifact.
    """

    directory: Path
    consumer: str
    files: tuple[str, ...]
    snippet: str
    linked: bool

    def to_json(self) -> dict[str, Any]:
        """Returns the package as plain JSON types."""
        return {
            "output": str(self.directory),
            "for": self.consumer,
            "files": list(self.files),
            "snippet": self.snippet,
            "linked": self.linked,
        }


def package(artifact: str | Path, consumer: str, output: str | Path | None = None, *, copy: bool = False) -> Packaged:
    """Writes a package of an artifact.

    Args:
        artifact: a directory that ``compress run`` or ``compress export`` wrote; it stays as it is.
        consumer: a name of ``CONSUMERS``.
        output: the package's directory; None takes the artifact's name with the consumer's after it.
        copy: whether files are copied; otherwise they are hard links to the artifact's, where the disk has such.

    Raises:
        ConfigError: there is no such consumer, or it cannot serve the artifact.
        ArtifactError: the artifact is damaged or of an earlier version, or the output cannot be written.
    """
    root = Path(artifact)
    chosen = CONSUMERS.get(consumer)
    if chosen is None:
        hint = did_you_mean(consumer, list(CONSUMERS))
        raise ConfigError(f"there is no consumer '{consumer}'.{hint} Consumers: {', '.join(CONSUMERS)}")
    refuse_damage(root)
    model = _graph_of(root)
    contents = contents_of(root, model)
    _check_served(chosen, contents, model)
    final = Path(f"{root.resolve()}-{consumer}") if output is None else Path(output)
    linked = True
    with staged(final) as directory:
        for name in contents.files:
            place = chosen.place(contents, name)
            if place is not None:
                linked &= _put(root / name, directory / place, copy=copy)
        _write_further(chosen, contents, model, directory)
        snippet = _write_card(chosen, contents, root, directory)
        files = sorted(file.relative_to(directory).as_posix() for file in directory.rglob("*") if file.is_file())
    return Packaged(final, consumer, tuple(files), snippet.replace("PACKAGE", str(final)), linked)


def contents_of(root: Path, model: Any) -> Contents:
    """Returns what of an artifact is packaged.

    Args:
        root: the artifact.
        model: its graph.
    """
    manifest = read_manifest(root)
    task = manifest.get("task") or {}
    engine = manifest.get("engine") or {}
    # What nncf makes is in the folder of the engine; model.onnx beside it is float32.
    precision = "fp32" if engine.get("scheme") == "nncf" else str(engine.get("precision", "fp32"))
    names = (name for name in manifest["files"] if name not in (*OF_THE_RUN, COMPACT))
    files = tuple(name for name in names if name.split("/")[0] not in (PYTORCH, ENGINE))
    dims = {value.name: value.type.tensor_type.shape.dim for value in model.graph.output}
    answer = dims.get("sentence_embedding") or dims.get("last_hidden_state")
    given = str((manifest.get("model") or {}).get("name") or root.resolve().name)
    target = (manifest.get("configuration") or {}).get("target", "cpu")
    return Contents(
        # Names of models and folders: Triton's, fastembed's.
        name=re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(given).name).strip("-.") or "model",
        task=str(task.get("name", "text-classification")),
        settings=task,
        precision=precision,
        dimension=int(answer[-1].dim_value) if answer else None,
        files=files,
        on_gpu=_is_gpu(str(target)),
        kept=_kept_of(manifest, files),
    )


def _kept_of(manifest: Mapping[str, Any], files: Sequence[str]) -> dict[str, str]:
    """Returns the number formats of files beside model.onnx that are the same model."""
    made = manifest.get("kept")
    known = made if isinstance(made, dict) else {}
    return {name: precision for precision, name in BESIDE.items() if name in known and name in files}


def _is_gpu(target: str) -> bool:
    from compress.core.errors import TargetError
    from compress.profile.target import load_target

    try:
        return load_target(target).on_gpu
    except TargetError:
        return False  # a file of its own, which is not here


def _graph_of(root: Path) -> Any:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        return onnx.load(str(root / MODEL), load_external_data=False)
    except (OSError, DecodeError) as error:
        raise ArtifactError(f"'{root / MODEL}' cannot be read: {error}; make the artifact again") from None


def _check_served(consumer: Consumer, contents: Contents, model: Any) -> None:
    """Raises ConfigError or ArtifactError where a consumer cannot serve an artifact."""
    if contents.task not in consumer.tasks:
        others = [name for name, other in CONSUMERS.items() if contents.task in other.tasks]
        raise ConfigError(
            f"--for {consumer.name} cannot serve {contents.task}: {consumer.what}; {contents.task} is served by "
            f"{', '.join(others)}"
        )
    lacking = consumer.lacks(contents)
    if lacking is not None:
        raise ConfigError(f"--for {consumer.name} cannot serve this artifact: {lacking}")
    outputs = [value.name for value in model.graph.output]
    if contents.task == EMBEDDINGS and consumer.name == "optimum" and "last_hidden_state" not in outputs:
        raise ArtifactError(
            f"'{MODEL}' has no last_hidden_state, which {consumer.name} reads: it was made by an earlier version; make "
            "the artifact again"
        )
    if consumer.name == "transformers.js" and any(name.endswith(".onnx.data") for name in contents.files):
        raise ConfigError(
            f"--for {consumer.name} takes a model in one file, and this one keeps its weights beside it "
            f"({MODEL}.data): make a smaller one, with --size-mb or --precision int8"
        )


def _put(source: Path, place: Path, *, copy: bool) -> bool:
    """Puts a file at its place; returns whether it is a link."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if not copy:
        try:
            os.link(source, place)
            return True
        except OSError:
            pass  # another disk, or one without links
    shutil.copyfile(source, place)
    return False


def _write_further(consumer: Consumer, contents: Contents, model: Any, directory: Path) -> None:
    """Writes what an artifact does not have: a setting of transformers.js, the configuration of Triton."""
    if consumer.name == "transformers.js":
        file = directory / "config.json"
        config = {**_document(file), "transformers.js_config": {"dtype": type_in_javascript(contents)[0]}}
        _replace(file, json.dumps(config, indent=2) + "\n")
    if consumer.name == "triton":
        from compress.artifact.triton import config_text

        folder = directory / contents.name
        classes = _document(folder / "tokenizer" / "config.json").get("id2label") or {}
        labels = contents.task in ("text-classification", "image-classification") and bool(classes)
        most = max(MOST_GATHERED, int(contents.settings.get("batch_size", 1)))
        text = config_text(model, contents.name, most, on_gpu=contents.on_gpu, labels=labels)
        (folder / "config.pbtxt").write_text(text, encoding="utf-8")
        if labels:
            names = [str(classes[number]).replace("\n", " ") for number in sorted(classes, key=int)]
            (folder / "labels.txt").write_text("\n".join(names) + "\n", encoding="utf-8")


def _document(file: Path) -> dict[str, Any]:
    found = parse_json(read_text(file)) if file.is_file() else {}
    return found if isinstance(found, dict) else {}


def _replace(file: Path, text: str) -> None:
    """Writes a file anew: as a link it would be the artifact's too."""
    file.unlink()
    file.write_text(text, encoding="utf-8")


def _write_card(consumer: Consumer, contents: Contents, root: Path, directory: Path) -> str:
    """Writes README.md; returns the lines that load the package."""
    language, snippet = consumer.snippet(contents)
    lines = [
        f"# {contents.name}, compressed, for {consumer.name}",
        "",
        f"Made by compress {__version__}. Task: {contents.task}. Number format: {contents.precision}. SHA-256 of the "
        f"model, as in the artifact's manifest: `{sha256_of(root / MODEL)}`.",
        "",
        f"```{language}",
        snippet,
        "```",
    ]
    for name, precision in contents.kept.items() if consumer.choice else ():
        place = consumer.place(contents, name)
        if consumer.choice and place:
            lines += ["", f"The same model in {precision} is `{place}`: {consumer.choice(place, precision)} loads it."]
    if contents.prompt:
        lines += ["", f"Every text begins with the prompt {contents.prompt!r}, as it was measured."]
    (directory / CARD).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return snippet
