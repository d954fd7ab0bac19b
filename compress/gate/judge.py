"""Limits and evidence to verdicts."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compress.artifact.validation import EXIT_CODES
from compress.core.errors import ArtifactError, ConfigError, TargetError
from compress.core.parsing import Unreadable, parse_json, printable, read_text
from compress.core.statistics import Interval, Verdict
from compress.gate import decision
from compress.gate.evidence import Evidence, about, comparable, gather
from compress.gate.measurements import LOOKERS, Case, Found, Open, is_on
from compress.options.gate_limits import Gate, Limit
from compress.options.run_config import make_config

if TYPE_CHECKING:
    from compress.core.progress import Progress
    from compress.gate.timing import Timings


@dataclass(frozen=True)
class Judgement:
    """One limit, judged.

    Attributes:
        limit: what was asked.
        verdict: pass, fail or inconclusive.
        found: what was found, in the limit's unit; None where nothing settles it.
        bound: the limit in that unit, percentages worked out; None where that needs what is not there.
        reason: why it did not pass, or what it is; in words.
        source: what it rests on.
    """

    limit: Limit
    verdict: Verdict
    found: Interval | None
    bound: float | None
    reason: str
    source: str


@dataclass(frozen=True)
class Report:
    """All limits, judged.

    Attributes:
        artifact: its directory.
        baseline: its directory; None without one.
        judgements: in the order of the limits.
        notes: what is worth knowing, and decides nothing.
    """

    artifact: Path
    baseline: Path | None
    judgements: tuple[Judgement, ...]
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The verdict on all limits together."""
        return decision.overall(judgement.verdict for judgement in self.judgements)

    @property
    def exit_code(self) -> int:
        """Exit code of the command: 0, 1 or 2."""
        return EXIT_CODES[self.verdict]


def judge(
    artifact: str | Path,
    gate: Gate,
    progress: Progress,
    *,
    baseline: str | Path | None = None,
    measure: bool = False,
    file: str | None = None,
    now: datetime.datetime | None = None,
) -> Report:
    """Judge an artifact.

    Args:
        artifact: directory that ``compress run`` wrote.
        gate: the limits.
        progress: told what is measured.
        baseline: another artifact that limits refer to; None where none does.
        measure: time the files here instead of taking recorded latencies.
        file: the model that limits are about, of the artifact and of the baseline; None is model.onnx.
        now: None is the system's time.

    Raises:
        ConfigError: no limits, or limits that contradict the arguments.
        ArtifactError: no artifact, a damaged one, or a baseline that cannot serve as one.
        TargetError: ``measure``, and the target, or the device that the gate names, is not here.
    """
    if not gate.limits:
        raise ConfigError(
            "a gate without limits lets everything pass: give at least one, such as --max-size-mb 50, or a [gate] "
            "table in compress.toml"
        )
    relative = [limit for limit in gate.limits if limit.of == "baseline"]
    if relative and baseline is None:
        raise ConfigError(f"'{relative[0]}' ({relative[0].kind.name}) needs a baseline: give one with --baseline")
    if baseline is not None and not relative:
        raise ConfigError(
            "no limit refers to the baseline: give one, such as --max-latency-ms '105 % of baseline', or leave "
            "--baseline out"
        )
    candidate = about(gather(artifact), file)
    against = None if baseline is None else _baseline(baseline, candidate, measure)
    case = Case(candidate, against, gate, now or datetime.datetime.now(datetime.timezone.utc))
    if measure:
        case = _timed(case, progress)
    return Report(
        artifact=Path(artifact),
        baseline=None if baseline is None else Path(baseline),
        judgements=tuple(_judged(limit, case) for limit in gate.limits),
        notes=tuple(_notes(candidate, against)),
    )


def _baseline(path: str | Path, candidate: Evidence, measure: bool) -> Evidence:
    """The baseline, unless it cannot serve as one."""
    try:
        found = about(gather(path), candidate.file)
    except ArtifactError as error:
        raise ArtifactError(f"the baseline cannot be used: {error}") from None
    if found.validation is not None and found.validation.verdict == "fail":
        raise ArtifactError(
            f"the baseline '{path}' failed its own budget ({printable(found.validation.reason)}): whatever is compared "
            "with it would look good; take one that passed"
        )
    differences = comparable(candidate, found)
    if measure:
        # Both are timed here, so that it does not matter where they were timed before; batch and length do.
        differences = [text for text in differences if text.startswith(("target ", "batch size ", "seq len "))]
    if differences:
        raise ArtifactError(
            f"the baseline '{path}' was measured elsewhere than '{candidate.artifact}': {'; '.join(differences)}. Run "
            "`compress validate` on one device for both" + ("" if measure else ", or time both here with --measure")
        )
    return found


def _notes(candidate: Evidence, baseline: Evidence | None) -> list[str]:
    notes = []
    others = [] if candidate.validation is None else [one.file for one in candidate.validation.kept]
    if others and candidate.file not in others:
        named = " and ".join(map(printable, others))
        notes.append(f"limits on latency and accuracy are about {candidate.file}; --file judges {named}")
    if candidate.unlisted:
        names = ", ".join(map(printable, candidate.unlisted[:3])) + (", ..." if len(candidate.unlisted) > 3 else "")
        notes.append(f"the manifest does not list {names}: counted in the size, otherwise not looked at")
    if baseline is not None and baseline.artifact.resolve() == candidate.artifact.resolve():
        notes.append("the baseline is the artifact itself")
    return notes


def _judged(limit: Limit, case: Case) -> Judgement:
    try:
        found = LOOKERS[limit.kind.name](limit, case)
    except Open as unsettled:
        return Judgement(limit, "inconclusive", None, None, printable(str(unsettled)), "nothing")
    verdict = decision.judged(found.value, found.bound, limit.kind.direction)
    # Names out of the artifact are in both: they must not steer a terminal or write lines of a log.
    reason, source = printable(_reason(limit, verdict, found)), printable(found.source)
    return Judgement(limit, verdict, found.value, found.bound, reason, source)


def _reason(limit: Limit, verdict: Verdict, found: Found) -> str:
    if verdict == "pass":
        return found.detail
    over = found.value.value - found.bound
    amount = f"{abs(over):.2g}" if found.bound == 0 else f"{100 * abs(over / found.bound):.3g} %"
    side = "above" if over > 0 else "below"
    detail = f"; {found.detail}" if found.detail else ""
    if verdict == "fail":
        return f"{amount} {side} the limit{detail}"
    return f"the interval straddles the limit{detail}; more calls or examples, or a quieter machine, would narrow it"


def _needs_timing(limit: Limit) -> bool:
    latency = limit.kind.name == "max_latency_ms" and limit.of != "dense"
    return latency or (limit.kind.name == "min_speedup" and limit.of == "baseline")


def _timed(case: Case, progress: Progress) -> Case:
    """The case with files timed here, as long as limits on latency are open."""
    from compress.gate.timing import deployment_feed, opener, time_files
    from compress.profile.device import describe_device
    from compress.profile.target import load_target

    asked = [limit for limit in case.gate.limits if _needs_timing(limit)]
    if not asked:
        raise ConfigError(
            "--measure, and no limit that it would settle: it times files for --max-latency-ms in ms or of baseline. "
            "Limits against the dense model take what `compress validate` recorded"
        )
    try:
        configuration = case.candidate.manifest["configuration"]
        deployed = make_config(
            {"model": "model", **{key: configuration[key] for key in ("batch_size", "seq_len", "target")}}
        )
        vocabulary = _vocabulary(case.candidate.artifact)
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"'{case.candidate.artifact}' does not say how it is deployed: {error}") from None
    target = load_target(deployed.target)
    device = describe_device(target)
    if not is_on(case.gate.device, device):
        raise TargetError(
            f"this machine is {printable(', '.join(map(str, device.values())))}, not '{case.gate.device}', on which "
            "the latency is limited: run the gate there, or leave --measure out to take what was recorded there"
        )
    compared = [case.candidate, *([case.baseline] if any(limit.of == "baseline" for limit in asked) else [])]
    files = [_file_of(evidence, target.runtime) for evidence in compared if evidence is not None]

    def settled(timings: Timings) -> bool:
        so_far = Case(case.candidate, case.baseline, case.gate, case.now, timings)
        return all(_judged(limit, so_far).verdict != "inconclusive" for limit in asked)

    with progress.stage("time"):
        timings = time_files(
            opener(target),
            files,
            lambda session: deployment_feed(session, deployed.batch_size, deployed.seq_len, vocabulary),
            settled,
            progress,
        )
    return Case(case.candidate, case.baseline, case.gate, case.now, timings)


def _file_of(evidence: Evidence, runtime: str) -> Path:
    from compress.export.runtime import file_of

    return file_of(evidence.artifact / evidence.file, runtime)


def _vocabulary(artifact: Path) -> int:
    try:
        size = parse_json(read_text(artifact / "config.json"))["vocab_size"]
    except Unreadable as error:
        raise ValueError(f"config.json: {error}") from None
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 10**8:
        raise ValueError(f"vocab_size is {size!r}")
    return size
