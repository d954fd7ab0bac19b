"""How each kind of result is written to the store and read back: safetensors and JSON, never pickle.

Law (``tests/test_keeping.py``): what is read equals what was written, bit for bit.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.artifact.outcomes import Outcomes
from compress.artifact.validation import Validation
from compress.cache.memo import Codec
from compress.core.importance import Fisher, Importance, Ranking, Rankings
from compress.core.statistics import Interval
from compress.export.lowering import Engine
from compress.export.measure import LatencyComparison
from compress.export.onnx import ExportReport
from compress.profile.latency_profile import Profile
from compress.stages.results import Evaluated, Exported

if TYPE_CHECKING:
    from compress.core.plan import Plan
    from compress.inputs.load import Loaded
    from compress.stages.results import Repairs

_DOCUMENT, _TENSORS, _FILES = "result.json", "result.safetensors", "files"


def _write(document: Any, folder: Path) -> None:
    # Floats are written so that they are read back exactly.
    (folder / _DOCUMENT).write_text(json.dumps(document), encoding="utf-8")


def _read(folder: Path) -> Any:
    return json.loads((folder / _DOCUMENT).read_text(encoding="utf-8"))


def _copy_model(path: Path, folder: Path) -> None:
    """Copy a model file and its external data."""
    folder.mkdir(exist_ok=True)
    for file in path.parent.glob(f"{path.name}*"):
        shutil.copyfile(file, folder / file.name)


def _write_file(path: Path, folder: Path) -> None:
    _copy_model(path, folder / _FILES)
    _write(path.name, folder)


def _read_file(folder: Path) -> Path:
    return folder / _FILES / Path(str(_read(folder))).name


def _write_profile(profile: Profile, folder: Path) -> None:
    (folder / _DOCUMENT).write_text(profile.to_json(), encoding="utf-8")


def _read_profile(folder: Path) -> Profile:
    return Profile.from_json((folder / _DOCUMENT).read_text(encoding="utf-8"))


def _write_arrays(arrays: Mapping[str, NDArray[Any]], folder: Path) -> None:
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, str(folder / _TENSORS))


def _read_arrays(folder: Path) -> dict[str, NDArray[Any]]:
    from safetensors.numpy import load_file

    found: dict[str, NDArray[Any]] = load_file(str(folder / _TENSORS))
    return found


def _write_array(array: NDArray[np.float64], folder: Path) -> None:
    _write_arrays({"array": array}, folder)


def _read_array(folder: Path) -> NDArray[np.float64]:
    return _read_arrays(folder)["array"]


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
    said = None if fisher is None else {"samples": fisher.samples, "label_free": fisher.label_free}
    _write({"layers": [len(rankings.heads), len(rankings.filters)], "fisher": said}, folder)


def _read_importance(folder: Path) -> Importance:
    arrays, document = _read_arrays(folder), _read(folder)
    heads, filters = (
        tuple(Ranking(arrays[f"{kind}.{i}.order"], arrays[f"{kind}.{i}.loss"]) for i in range(count))
        for kind, count in zip(("heads", "filters"), document["layers"], strict=True)
    )
    fisher = None
    if document["fisher"] is not None:
        fisher = Fisher(
            heads=arrays["fisher.heads"],
            filters=arrays["fisher.filters"],
            head_blocks=arrays.get("fisher.head_blocks"),
            filter_blocks=arrays.get("fisher.filter_blocks"),
            samples=document["fisher"]["samples"],
            label_free=document["fisher"]["label_free"],
        )
    return Importance(Rankings(heads, filters, arrays.get("coefficients")), fisher)


def _timed_document(timed: LatencyComparison | None) -> Any:
    return None if timed is None else asdict(timed)


def _timed(document: Any) -> LatencyComparison | None:
    if document is None:
        return None
    dense, compressed, speedup = (Interval(**document[name]) for name in ("dense", "compressed", "speedup"))
    return LatencyComparison(dense, compressed, speedup, document["rounds"])


def _read_timed(folder: Path) -> LatencyComparison:
    timed = _timed(_read(folder))
    assert timed is not None
    return timed


def _write_evaluated(found: Evaluated, folder: Path) -> None:
    _write(
        {
            "timed": _timed_document(found.timed),
            "validation": found.validation.to_json(),
            "outcomes": found.outcomes.to_json(),
        },
        folder,
    )


def _read_evaluated(folder: Path) -> Evaluated:
    document = _read(folder)
    return Evaluated(
        Validation.model_validate(document["validation"]),
        Outcomes.from_json(document["outcomes"]),
        _timed(document["timed"]),
    )


def _root(exported: Exported) -> Path:
    """The directory of all that belongs to an exported file; OpenVINO's lies in a folder of its own in it."""
    return exported.path.parent.parent if exported.path.parent.name == "engine" else exported.path.parent


def _write_exported(exported: Exported, folder: Path) -> None:
    root = _root(exported)
    shutil.copytree(root, folder / _FILES)
    _write(
        {
            "path": exported.path.relative_to(root).parts,
            "float_path": exported.float_path.relative_to(root).parts,
            "engine": exported.engine.to_json(),
            "report": asdict(exported.report),
            "parity": exported.parity,
        },
        folder,
    )


def _read_exported(folder: Path) -> Exported:
    document = _read(folder)
    path, float_path = ((folder / _FILES).joinpath(*document[name]) for name in ("path", "float_path"))
    if not (path.is_file() and float_path.is_file()):
        raise ValueError("it names files that are not there")
    engine, report = Engine.from_json(document["engine"]), ExportReport(**document["report"])
    return Exported(path, engine, report, document["parity"], float_path)


def pruned(loaded: Loaded, plan: Plan) -> Codec[tuple[Any, Repairs]]:
    """A pruned model, read back into a copy of the dense one."""
    from compress.stages.results import Repairs

    def write(result: tuple[Any, Repairs], folder: Path) -> None:
        from safetensors.torch import save_file

        from compress.artifact.model import tensors_of

        model, repairs = result
        save_file(tensors_of(model), str(folder / _TENSORS))
        _write(asdict(repairs), folder)

    def read(folder: Path) -> tuple[Any, Repairs]:
        from safetensors.torch import load_file

        from compress.pruning.removal import remove
        from compress.reconstruction.closed_form import Reconstructed
        from compress.reconstruction.joint import Tuned

        model = copy.deepcopy(loaded.checkpoint.model)
        if plan.structure.widths != plan.shape.dense:
            remove(model, plan.structure)
        model.load_state_dict(load_file(str(folder / _TENSORS)), strict=True)
        document = _read(folder)
        joint = None if document["joint"] is None else Tuned(**document["joint"])
        return model, Repairs(tuple(Reconstructed(**one) for one in document["sublayers"]), joint)

    return Codec(write, read)


FILE = Codec(_write_file, _read_file)
ENGINE: Codec[Engine] = Codec(
    lambda engine, folder: _write(engine.to_json(), folder), lambda folder: Engine.from_json(_read(folder))
)
PROFILE = Codec(_write_profile, _read_profile)
ARRAY = Codec(_write_array, _read_array)
IMPORTANCE = Codec(_write_importance, _read_importance)
TIMED: Codec[LatencyComparison] = Codec(lambda timed, folder: _write(_timed_document(timed), folder), _read_timed)
EXPORTED = Codec(_write_exported, _read_exported)
EVALUATED = Codec(_write_evaluated, _read_evaluated)
