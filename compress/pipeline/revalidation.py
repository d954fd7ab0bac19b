"""`compress validate`: an artifact measured again, here and now."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.artifact.files import BESIDE, MODEL
from compress.artifact.manifest import read_manifest
from compress.artifact.sparse import artifact_is_sparse
from compress.artifact.validation import KeptFile
from compress.artifact.verify import refuse_damage
from compress.core.errors import ArtifactError
from compress.core.plan import Plan
from compress.core.progress import Progress, Silent
from compress.inputs.load import load, settle_seq_len
from compress.inputs.torch_state import own_torch_state
from compress.options.run_config import make_config
from compress.pipeline.compression import RunResult, result_of
from compress.pipeline.single_stages import refuse_other_shape
from compress.stages.context import Run
from compress.stages.present_device import PresentDevice
from compress.stages.stage import Stages

if TYPE_CHECKING:
    from compress.export.lowering import Engine
    from compress.inputs.load import Loaded
    from compress.stages.results import Exported

# Options that were about making the artifact: the GPU that it was made with need not be here.
_OF_THE_RUN = {"profile": None, "keep": None, "device": "cpu"}


@own_torch_state()
def validate_artifact(
    artifact: Path, overrides: Mapping[str, Any] | None = None, *, progress: Progress | None = None
) -> RunResult:
    """Measure an artifact again, here and now, and renew its validation.json.

    Args:
        artifact: directory that ``run`` or ``export`` wrote.
        overrides: options that replace the artifact's own (``eval_data``, ``target``, ``batch_size``, ...).
        progress: told about stages as they begin.
    """
    from compress.artifact.model import load as load_artifact
    from compress.export.aotinductor import keep_package
    from compress.export.lowering import Engine
    from compress.export.runtime import file_of
    from compress.stages.export import interface_of
    from compress.stages.write import renew_validation

    stages = Stages(progress or Silent())
    manifest = read_manifest(artifact)
    if artifact_is_sparse(manifest):
        raise ArtifactError(
            f"'{artifact}' was made by `compress run --unstructured`: there is no latency to measure again, and its "
            "accuracy stands in validation.json; run it anew for other data"
        )
    refuse_damage(artifact)
    try:
        config = make_config({**manifest["configuration"], **_OF_THE_RUN, "output": artifact, **(overrides or {})})
        engine = Engine.from_json(manifest["engine"]) if "engine" in manifest else Engine()
        beside = {name: Engine.from_json(made["engine"]) for name, made in manifest.get("kept", {}).items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"'{artifact}' does not say how it was made: {error}; make it again") from None
    plan = Plan.read(artifact)
    with tempfile.TemporaryDirectory(prefix="compress-") as scratch:
        with stages.stage("load"):
            loaded = load(config, stages)
            run = Run(settle_seq_len(config, loaded), loaded, stages)
            refuse_other_shape(loaded, plan)
            model = load_artifact(artifact)
        with stages.stage("export dense"):
            device = PresentDevice.open(run, Path(scratch))
        try:
            with stages.stage("validate"):
                file = file_of(artifact / MODEL, loaded.target.runtime)
                if engine.form == "compiled" and not file.is_file():
                    # What was planned elsewhere is compiled where it runs.
                    keep_package(model, file, interface_of(loaded), loaded.target, engine.precision)
                found = device.validate(plan, _compared(file, artifact / MODEL, engine, model, loaded))
                kept = []
                for name in sorted(beside.keys() & set(BESIDE.values())):
                    one = _compared(artifact / name, artifact / name, beside[name], model, loaded)
                    # What the plan predicts is of another number format.
                    measured = device.validate(replace(plan, predicted_ms=None), one).validation
                    stages.info(f"{name}: {measured.reason}")
                    kept.append(KeptFile.of(name, measured))
                if kept:
                    found = replace(found, validation=found.validation.model_copy(update={"kept": tuple(kept)}))
        finally:
            device.close()
        renew_validation(artifact, manifest, found, run.config, plan, loaded.target)
    return result_of(artifact, plan, found.validation, stages)


def _compared(file: Path, graph: Path, engine: Engine, model: Any, loaded: Loaded) -> Exported:
    """A file of the artifact, compared with its PyTorch model.

    Args:
        file: what the target's runtime loads.
        graph: its ONNX file.
        engine: how it was made.
        model: in PyTorch.
        loaded: examples, task and target.
    """
    from compress.export.onnx import read_report
    from compress.stages.export import parity_of
    from compress.stages.results import Exported

    tolerance = 1e-3 if engine.precision == "fp32" else math.inf
    return Exported(file, engine, read_report(graph), parity_of(file, model, loaded, tolerance), file)
