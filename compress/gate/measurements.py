"""What there is on each kind of limit: the value with its interval, the limit in the same unit, what both rest on."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compress.artifact.validation import FLOAT_SUMS, Validation
from compress.core.errors import ArtifactError, ConfigError
from compress.core.parsing import printable
from compress.core.statistics import Interval
from compress.gate import decision
from compress.gate.evidence import Evidence, interval
from compress.options.gate_limits import Gate, Limit

if TYPE_CHECKING:
    from compress.gate.timing import Timings

_MB = 1e6


class Open(Exception):
    """A limit that nothing settles; the message says why."""


@dataclass(frozen=True)
class Found:
    """What there is to hold against a limit: value, limit in the same unit, source, and what to say beside them."""

    value: Interval
    bound: float
    source: str
    detail: str = ""


@dataclass(frozen=True)
class Case:
    """An artifact, its baseline, what was timed here, and what is asked of records."""

    candidate: Evidence
    baseline: Evidence | None
    gate: Gate
    now: datetime.datetime
    timings: Timings | None = None

    @property
    def against(self) -> Evidence:
        """The baseline."""
        assert self.baseline is not None, "checked before anything is judged"
        return self.baseline


def _size(limit: Limit, case: Case) -> Found:
    sizes = case.candidate.sizes
    total = sum(sizes.values())
    largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
    detail = f"{len(sizes)} files, the largest " + ", ".join(
        f"{printable(name)} {sizes[name] / _MB:.1f} MB" for name in largest
    )
    if limit.percent and limit.of == "dense":
        # The dense model was never an artifact: its file is compared with this one's.
        size = _validated(case.candidate).size_bytes
        dense = f"the exported file alone, dense {size.dense / _MB:.1f} MB"
        return Found(_megabytes(size.compressed), limit.value / 100 * size.dense / _MB, "validation.json", dense)
    bound = limit.value / 100 * sum(case.against.sizes.values()) / _MB if limit.percent else limit.value
    return Found(_megabytes(total), bound, "the files", detail)


def _file_size(limit: Limit, case: Case) -> Found:
    sizes = case.candidate.sizes
    if limit.file is not None and limit.file not in sizes:
        raise ConfigError(
            f"the limit for '{limit.file}' is for a file that '{case.candidate.artifact}' does not have; it has "
            f"{', '.join(map(printable, sorted(sizes)))}"
        )
    names = [limit.file] if limit.file is not None else sorted(sizes)
    bounds = dict.fromkeys(names, limit.value)
    if limit.percent:
        before = case.against.sizes
        # A file that the baseline lacks cannot have grown.
        bounds = {name: limit.value / 100 * before[name] / _MB for name in names if before.get(name)}
        if not bounds:
            raise Open("the baseline has no file of that name")
    worst = max(bounds, key=lambda name: sizes[name] / bounds[name])
    over = [name for name in bounds if sizes[name] / _MB > bounds[name]]
    more = f" and {len(over) - 1} more" if len(over) > 1 else ""
    return Found(_megabytes(sizes[worst]), bounds[worst], "the files", printable(worst) + more)


def _latency(limit: Limit, case: Case) -> Found:
    if limit.of == "baseline":
        ratio, milliseconds, source = _ratio(case)
        return Found(decision.scaled(ratio, milliseconds), limit.value / 100 * milliseconds, source)
    if not limit.percent and case.timings is not None:
        return Found(case.timings.latency_ms, limit.value, _here(case))
    found, source = _recorded(case)
    assert found.latency_ms.compressed is not None and found.latency_ms.ci95 is not None
    if not limit.percent:
        return Found(interval(found.latency_ms.compressed, found.latency_ms.ci95), limit.value, source)
    dense = found.latency_ms.dense
    if dense is None:
        raise Open("the dense model's latency is not recorded")
    return Found(decision.scaled(decision.reciprocal(_speedup_of(found)), dense), limit.value / 100 * dense, source)


def _speedup(limit: Limit, case: Case) -> Found:
    if limit.of == "baseline":
        ratio, _, source = _ratio(case)
        before = _speedup_of(_recorded_of(case.against)).value
        return Found(decision.scaled(decision.reciprocal(ratio), before), limit.value / 100 * before, source)
    found, source = _recorded(case)
    return Found(_speedup_of(found), limit.value, source)


def _accuracy(limit: Limit, case: Case) -> Found:
    metric = _validated(case.candidate).metric
    source = f"{metric.name}, validation.json"
    if not limit.percent:
        return Found(interval(metric.compressed, metric.ci95), limit.value, source)
    drop, reference, how = _drop(limit, case)
    value = Interval(reference - drop.value, reference - drop.high, reference - drop.low)
    return Found(value, limit.value / 100 * reference, f"{metric.name}, {how}")


def _metric_drop(limit: Limit, case: Case) -> Found:
    drop, reference, how = _drop(limit, case)
    bound = limit.value / 100 * reference if limit.percent else limit.value
    name = _validated(case.candidate).metric.name
    return Found(drop, bound, f"{name}, {how}", f"{limit.of} {reference:.4f}")


def _macs(limit: Limit, case: Case) -> Found:
    fraction = _validated(case.candidate).macs.fraction
    bound = limit.value
    if limit.percent:
        bound = limit.value / 100 * (_validated(case.against).macs.fraction if limit.of == "baseline" else 1.0)
    # The search keeps to a budget to within rounding.
    return Found(decision.exactly(fraction), bound * (1 + 1e-9), "validation.json")


def _parity(limit: Limit, case: Case) -> Found:
    return Found(decision.exactly(_validated(case.candidate).parity.max_abs_diff), limit.value, "validation.json")


def _batch_drift(limit: Limit, case: Case) -> Found:
    found = _validated(case.candidate).invariance
    if found is None:
        raise Open("answers alone and in a batch were not compared; run `compress validate` on the device")
    return Found(decision.exactly(found.largest), max(limit.value, FLOAT_SUMS), "validation.json", found.said)


LOOKERS: dict[str, Callable[[Limit, Case], Found]] = {
    "max_size_mb": _size,
    "max_file_size_mb": _file_size,
    "max_latency_ms": _latency,
    "min_speedup": _speedup,
    "min_accuracy": _accuracy,
    "max_drop": _metric_drop,
    "max_macs": _macs,
    "max_parity": _parity,
    "max_batch_drift": _batch_drift,
}


def _megabytes(size: int) -> Interval:
    return decision.exactly(size / _MB)


def _validated(evidence: Evidence) -> Validation:
    if evidence.validation is None:
        raise Open(f"'{evidence.artifact}' was never validated; run `compress validate`")
    return evidence.validation


def _recorded_of(evidence: Evidence) -> Validation:
    found = _validated(evidence)
    if found.unstructured is not None:
        raise Open(
            f"'{evidence.artifact}' was made by `compress run --unstructured`, which saves bytes and times nothing"
        )
    if found.latency_ms.compressed is None or found.speedup.value is None:
        raise Open(f"'{evidence.artifact}' was not timed on its device; run `compress validate` there")
    return found


def _recorded(case: Case) -> tuple[Validation, str]:
    """The candidate's record, unless it is too old or of another device; and what it is, in words."""
    found = _recorded_of(case.candidate)
    device, age = case.candidate.device, case.candidate.age_days(case.now)
    if not is_on(case.gate.device, found.deployment.device):
        raise Open(f"it was timed on {device}, not on '{case.gate.device}'; run `compress validate` there")
    if age is None or age < -1:
        raise Open(
            f"it was timed at {printable(found.date)!r}, which is not a date in the past; run `compress validate`"
        )
    if age > case.gate.max_age_days:
        raise Open(
            f"it was timed {age:.0f} days ago, more than {case.gate.max_age_days:g}; run `compress validate`, or time "
            "it here with --measure"
        )
    return found, f"{device}, {found.date[:10]}"


def is_on(name: str | None, device: Mapping[str, str | int]) -> bool:
    """Whether a device's description contains a text.

    Args:
        name: the text; None is any device.
        device: the description.
    """
    return name is None or any(name.lower() in str(value).lower() for value in device.values())


def _speedup_of(found: Validation) -> Interval:
    assert found.speedup.value is not None and found.speedup.ci95 is not None, "checked when it was read"
    return interval(found.speedup.value, found.speedup.ci95)


def _here(case: Case) -> str:
    assert case.timings is not None
    return f"timed here, {len(case.timings.ms)} loadings"


def _ratio(case: Case) -> tuple[Interval, float, str]:
    """Latency over the baseline's, the baseline's milliseconds, and what they rest on."""
    if case.timings is not None:
        return case.timings.ratio, decision.over_visits(case.timings.ms[:, -1]).value, _here(case)
    found, source = _recorded(case)
    before = _recorded_of(case.against)
    if case.candidate.dense is None or case.candidate.dense != case.against.dense:
        raise Open(
            "the two were timed on different days against different dense models, which says little of one over the "
            "other; time both here with --measure"
        )
    ratio = decision.recorded_ratio(_speedup_of(found), _speedup_of(before))
    assert before.latency_ms.compressed is not None
    return ratio, before.latency_ms.compressed, f"{source}; both against the same dense model"


def _drop(limit: Limit, case: Case) -> tuple[Interval, float, str]:
    """How much the metric falls against the limit's reference, that reference's metric, and how it is known."""
    metric = _validated(case.candidate).metric
    if limit.of == "dense":
        if metric.drop is None:
            raise Open("the drop against the dense model is not recorded; run `compress validate`")
        return interval(metric.drop.value, metric.drop.ci95), metric.dense, "paired, validation.json"
    before = _validated(case.against).metric
    if metric.name != before.name or case.candidate.data is None or case.candidate.data != case.against.data:
        raise ArtifactError(
            f"the baseline '{case.against.artifact}' was validated on other data ({printable(before.name)}, here "
            f"{printable(metric.name)}): run `compress validate --eval-data` on the same for both"
        )
    ours, theirs = case.candidate.outcomes, case.against.outcomes
    if ours is not None and theirs is not None and ours.matches(theirs):
        drop = decision.paired_drop(theirs.rows, ours.rows, ours.combiner())
        return drop, before.compressed, f"paired over {len(ours.rows)} examples"
    drop = decision.unpaired_drop(interval(before.compressed, before.ci95), interval(metric.compressed, metric.ci95))
    return drop, before.compressed, "not paired: an artifact without outcomes.json"
