"""How each kind of result is written to the store and read back: safetensors and JSON, never pickle.

Documents are checked against the types that they are read as: a damaged one is a ``ValueError``.
Law (``tests/stages/test_cache_codecs.py``): what is read equals what was written, bit for bit.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from compress.artifact.outcomes import Outcomes
from compress.artifact.validation import Validation
from compress.cache.memo import Codec
from compress.core.importance import Fisher, Importance, Ranking, Rankings
from compress.export.lowering import Engine
from compress.export.measure import LatencyComparison
from compress.export.onnx import ExportReport
from compress.profile.latency_profile import Profile
from compress.stages.results import ChosenTarget, Evaluated, Exported

if TYPE_CHECKING:
    from compress.core.plan import Plan
    from compress.inputs.load import Loaded
    from compress.stages.results import Repairs

T = TypeVar("T")
_DOCUMENT, _TENSORS, _FILES = "result.json", "result.safetensors", "files"


def _write(kind: Any, value: Any, folder: Path) -> None:
    # Floats are written so that they are read back exactly, infinite ones too.
    document = TypeAdapter(kind).dump_python(value)
    (folder / _DOCUMENT).write_text(json.dumps(document), encoding="utf-8")


def _read(kind: Any, folder: Path) -> Any:
    return TypeAdapter(kind).validate_python(json.loads((folder / _DOCUMENT).read_text(encoding="utf-8")))


def _document(kind: Any) -> Codec[Any]:
    """The codec of plain values: dataclasses, tuples, numbers."""
    return Codec(lambda value, folder: _write(kind, value, folder), lambda folder: _read(kind, folder))


def _copy_model(path: Path, folder: Path) -> None:
    """Copy a model file and its external data."""
    folder.mkdir(exist_ok=True)
    for file in path.parent.glob(f"{path.name}*"):
        shutil.copyfile(file, folder / file.name)


def _write_file(path: Path, folder: Path) -> None:
    _copy_model(path, folder / _FILES)
    _write(str, path.name, folder)


def _read_file(folder: Path) -> Path:
    return folder / _FILES / Path(_read(str, folder)).name


def _write_profile(profile: Profile, folder: Path) -> None:
    (folder / _DOCUMENT).write_text(profile.to_json(), encoding="utf-8")


def _read_profile(folder: Path) -> Profile:
    return Profile.from_json((folder / _DOCUMENT).read_text(encoding="utf-8"))


def _write_arrays(arrays: Mapping[str, NDArray[Any]], folder: Path) -> None:
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, str(folder / _TENSORS))


class _Arrays(dict[str, NDArray[Any]]):
    """Arrays by name; one that is missing is a ``ValueError``."""

    def __missing__(self, name: str) -> NDArray[Any]:
        raise ValueError(f"it has no array '{name}'")


def _read_arrays(folder: Path) -> _Arrays:
    from safetensors.numpy import load_file

    return _Arrays(load_file(str(folder / _TENSORS)))


@dataclass(frozen=True)
class _FisherFacts:
    samples: int
    label_free: bool


@dataclass(frozen=True)
class _ImportanceFacts:
    """Of an importance, what is not an array: numbers of rankings, and of the Fisher information where there is one."""

    layers: tuple[int, int]
    fisher: _FisherFacts | None


_BLOCKS = ("head_blocks", "filter_blocks")


def _write_importance(importance: Importance, folder: Path) -> None:
    rankings, fisher = importance.rankings, importance.fisher
    arrays: dict[str, NDArray[Any]] = {}
    for kind, row in (("heads", rankings.heads), ("filters", rankings.filters)):
        for number, ranking in enumerate(row):
            arrays |= {f"{kind}.{number}.order": ranking.order, f"{kind}.{number}.loss": ranking.loss}
    if rankings.coefficients is not None:
        arrays["coefficients"] = rankings.coefficients
    if fisher is not None:
        arrays |= {"fisher.heads": fisher.heads, "fisher.filters": fisher.filters}
        arrays |= {f"fisher.{name}": block for name in _BLOCKS if (block := getattr(fisher, name)) is not None}
    _write_arrays(arrays, folder)
    facts = None if fisher is None else _FisherFacts(fisher.samples, fisher.label_free)
    _write(_ImportanceFacts, _ImportanceFacts((len(rankings.heads), len(rankings.filters)), facts), folder)


def _read_importance(folder: Path) -> Importance:
    arrays, facts = _read_arrays(folder), _read(_ImportanceFacts, folder)
    heads, filters = (
        tuple(Ranking(arrays[f"{kind}.{i}.order"], arrays[f"{kind}.{i}.loss"]) for i in range(count))
        for kind, count in zip(("heads", "filters"), facts.layers, strict=True)
    )
    fisher = None
    if facts.fisher is not None:
        fisher = Fisher(
            heads=arrays["fisher.heads"],
            filters=arrays["fisher.filters"],
            head_blocks=arrays.get("fisher.head_blocks"),
            filter_blocks=arrays.get("fisher.filter_blocks"),
            samples=facts.fisher.samples,
            label_free=facts.fisher.label_free,
        )
    return Importance(Rankings(heads, filters, arrays.get("coefficients")), fisher)


@dataclass(frozen=True)
class _ExportedFacts:
    """``Exported`` with paths relative to the directory of all that belongs to it."""

    path: tuple[str, ...]
    float_path: tuple[str, ...]
    engine: Engine
    report: ExportReport
    parity: float


def _root(exported: Exported) -> Path:
    """The directory of all that belongs to an exported file; OpenVINO's lies in a folder of its own in it."""
    return exported.path.parent.parent if exported.path.parent.name == "engine" else exported.path.parent


def _write_exported(exported: Exported, folder: Path) -> None:
    root = _root(exported)
    shutil.copytree(root, folder / _FILES)
    facts = _ExportedFacts(
        exported.path.relative_to(root).parts,
        exported.float_path.relative_to(root).parts,
        exported.engine,
        exported.report,
        exported.parity,
    )
    _write(_ExportedFacts, facts, folder)


def _read_exported(folder: Path) -> Exported:
    facts = _read(_ExportedFacts, folder)
    path, float_path = ((folder / _FILES).joinpath(*parts) for parts in (facts.path, facts.float_path))
    if not (path.is_file() and float_path.is_file()):
        raise ValueError("it names files that are not there")
    return Exported(path, facts.engine, facts.report, facts.parity, float_path)


@dataclass(frozen=True)
class _EvaluatedFacts:
    """``Evaluated`` with both documents as their files have them."""

    validation: dict[str, Any]
    outcomes: dict[str, Any]
    timed: LatencyComparison | None


def _write_evaluated(found: Evaluated, folder: Path) -> None:
    facts = _EvaluatedFacts(found.validation.to_json(), found.outcomes.to_json(), found.timed)
    _write(_EvaluatedFacts, facts, folder)


def _read_evaluated(folder: Path) -> Evaluated:
    facts = _read(_EvaluatedFacts, folder)
    return Evaluated(Validation.model_validate(facts.validation), Outcomes.from_json(facts.outcomes), facts.timed)


def pruned(loaded: Loaded, plan: Plan) -> Codec[tuple[Any, Repairs]]:
    """The codec of a pruned model, read back into a copy of the dense one.

    Args:
        loaded: the dense model.
        plan: what stays.
    """
    from compress.reconstruction.closed_form import SublayerFit
    from compress.reconstruction.joint import JointFit
    from compress.stages.results import Repairs

    facts = tuple[tuple[SublayerFit, ...], JointFit | None]

    def write(result: tuple[Any, Repairs], folder: Path) -> None:
        from safetensors.torch import save_file

        from compress.artifact.model import tensors_of

        model, repairs = result
        save_file(tensors_of(model), str(folder / _TENSORS))
        _write(facts, (repairs.sublayers, repairs.joint), folder)

    def read(folder: Path) -> tuple[Any, Repairs]:
        from safetensors.torch import load_file

        from compress.pruning.removal import remove

        model = copy.deepcopy(loaded.checkpoint.model)
        if plan.structure.widths != plan.shape.dense:
            remove(model, plan.structure)
        try:
            model.load_state_dict(load_file(str(folder / _TENSORS)), strict=True)
        except RuntimeError as error:
            # torch reports names and shapes that do not fit so.
            raise ValueError(str(error)) from None
        return model, Repairs(*_read(facts, folder))

    return Codec(write, read)


FILE = Codec(_write_file, _read_file)
CHOSEN_TARGET: Codec[ChosenTarget] = _document(ChosenTarget)
ENGINE: Codec[Engine] = _document(Engine)
PROFILE = Codec(_write_profile, _read_profile)
ARRAY: Codec[NDArray[np.float64]] = Codec(
    lambda array, folder: _write_arrays({"array": array}, folder), lambda folder: _read_arrays(folder)["array"]
)
IMPORTANCE = Codec(_write_importance, _read_importance)
TIMED: Codec[LatencyComparison] = _document(LatencyComparison)
EXPORTED = Codec(_write_exported, _read_exported)
EVALUATED = Codec(_write_evaluated, _read_evaluated)
