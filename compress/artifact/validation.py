"""validation.json: one schema that every producer builds and every reader reads.

Two models share it. ``Validation`` is a whole document, as a run writes it and a gate reads it. ``Sections`` is what
can be read of a document that anybody may have written: each section by itself, None where it is absent or damaged.

Laws (``tests/artifact/test_validation.py``): a document of any version is read and written again to the identical
bytes, and ``Sections.of`` never raises. docs/validation.schema.json is ``schema()``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)

from compress.artifact.validation_parts import (
    FLOAT_SUMS,
    READING,
    Both,
    Candidate,
    CompactSize,
    Deployment,
    EngineForm,
    Estimate,
    FinePrunedFrom,
    GpuLatency,
    Invariance,
    Latency,
    LayerWeights,
    Macs,
    Metric,
    Parity,
    Part,
    Size,
    SliceRow,
    Slices,
    Speedup,
    StoredTensors,
    Unpruned,
    Weights,
    WeightsMetric,
    bounds_of,
)
from compress.core.errors import EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_PASS
from compress.core.statistics import Verdict

__all__ = [
    "EXIT_CODES",
    "FLOAT_SUMS",
    "READING",
    "Both",
    "Candidate",
    "CompactSize",
    "Deployment",
    "EngineForm",
    "Estimate",
    "FinePrunedFrom",
    "GpuLatency",
    "Invariance",
    "KeptFile",
    "Latency",
    "LayerWeights",
    "Macs",
    "Metric",
    "Parity",
    "Sections",
    "Size",
    "SliceRow",
    "Slices",
    "Speedup",
    "StoredTensors",
    "Unpruned",
    "Validation",
    "Weights",
    "WeightsMetric",
    "bounds_of",
    "schema",
]

EXIT_CODES: dict[Verdict, int] = {"pass": EXIT_PASS, "fail": EXIT_FAIL, "inconclusive": EXIT_INCONCLUSIVE}


class KeptFile(Part):
    """A file beside model.onnx: the same pruned model in another number format (``--keep``), measured likewise."""

    file: str = Field(description="Its name in the artifact.")
    precision: str
    engine: EngineForm
    latency_ms: Latency
    speedup: Speedup
    unpruned: Unpruned | None = None
    metric: Metric
    size_bytes: Size
    parity: Parity
    invariance: Invariance | None = None
    verdict: Verdict
    reason: str

    @classmethod
    def of(cls, file: str, measured: Validation) -> KeptFile:
        """What was measured on a file, without what all files share.

        Args:
            file: its name in the artifact.
            measured: as for model.onnx.
        """
        engine = measured.deployment.engine
        assert engine is not None, "whatever is measured has an engine"
        own = {name: getattr(measured, name) for name in cls.model_fields if name in measured.model_fields_set}
        return cls(file=file, precision=engine.precision, engine=engine, **own)


class Sections(Part):
    """What can be read of a validation.json: a section is None where it is absent or damaged."""

    latency_ms: Latency | None = None
    speedup: Speedup | None = None
    unpruned: Unpruned | None = None
    metric: Metric | None = None
    size_bytes: Size | None = None
    macs: Macs | None = None
    parity: Parity | None = None
    invariance: Invariance | None = None
    verdict: Literal["pass", "fail", "inconclusive"] | None = None
    reason: str = ""
    deployment: Deployment | None = None
    slices: Slices | None = None
    date: str = ""
    fine_pruned: FinePrunedFrom | None = None
    candidates: Annotated[tuple[Candidate, ...], Field(strict=False)] = ()
    chosen_because: str | None = None
    kept: Annotated[tuple[KeptFile, ...], Field(strict=False)] = ()
    unstructured: Weights | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing was measured, or nothing of it can be read."""
        return not any(getattr(self, name) for name in type(self).model_fields)

    @staticmethod
    def of(document: Any) -> Sections:
        """Read what there is; never raises.

        Args:
            document: any JSON value, or any part of the schema.
        """
        if isinstance(document, Sections):
            document = document.to_json()
        if not isinstance(document, Mapping):
            return Sections()
        return _Forgiving.model_validate({str(key): document[key] for key in document}, context=READING)


class _Forgiving(Sections):
    model_config = ConfigDict(extra="ignore")

    @field_validator("*", mode="wrap")
    @classmethod
    def _or_default(cls, value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        try:
            return handler(value)
        except ValidationError:
            return cls.model_fields[str(info.field_name)].default


class Validation(Sections):
    """What was measured on the exported file, and the verdict."""

    latency_ms: Latency
    speedup: Speedup
    metric: Metric
    size_bytes: Size
    macs: Macs
    parity: Parity
    verdict: Literal["pass", "fail", "inconclusive"]
    deployment: Deployment
    date: str = Field(description="ISO 8601, with the offset from UTC.")

    def about(self, file: str) -> Validation | None:
        """The same document with a file of ``kept`` in the place of model.onnx; None where there is no such file.

        Args:
            file: its name in the artifact.
        """
        found = next((one for one in self.kept if one.file == file), None)
        if found is None:
            return None
        own = {name: getattr(found, name) for name in KeptFile.model_fields if name in Validation.model_fields}
        deployment = self.deployment.model_copy(update={"precision": found.precision, "engine": found.engine})
        # What was measured on model.onnx alone.
        return self.model_copy(update={**own, "deployment": deployment, "slices": None, "fine_pruned": None})

    @property
    def exit_code(self) -> int:
        """Of a command that ends with this verdict."""
        return EXIT_CODES[self.verdict]


def schema() -> dict[str, Any]:
    """JSON schema of validation.json, as docs/validation.schema.json has it."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Validation.model_json_schema(),
        "title": "validation.json of compress",
    }
