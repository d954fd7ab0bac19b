"""The section about the run: seconds per stage, the parts of the stages, and how many cores they kept busy."""

from __future__ import annotations

from dataclasses import dataclass

from compress.report import formatting as fmt
from compress.report.page import Block, Cell, Note, Picture, Rows, Section, section
from compress.report.sources import Facts, as_number
from compress.report.svg import bars

# Of the largest parts, so many are drawn; the table has all of them.
_DRAWN = 10
# What no part accounts for is a row of its own from this share of the whole on.
_REST = 0.05
# More is not a run's own.
_MOST_ROWS, _DEEPEST = 200, 8


@dataclass(frozen=True)
class _Spent:
    """A stage or a part of one.

    Attributes:
        place: names, the stage's first.
        count: how often it ran.
        seconds: in all.
        cores: kept busy on average; None where nobody knows.
        stored: how many results of earlier runs it is, and the seconds that they took then.
    """

    place: tuple[str, ...]
    count: float
    seconds: float
    cores: float | None
    stored: tuple[float, float] | None

    def inside(self, other: _Spent) -> bool:
        """Whether it is a part of another, and of none of that one's parts."""
        return self.place[:-1] == other.place

    @property
    def said(self) -> str:
        """Its seconds in words."""
        return fmt.seconds(self.seconds)


def time_spent(manifest: Facts) -> Section:
    """Where the time of the run went; of artifacts that do not know the parts, seconds per stage.

    Args:
        manifest: of an artifact or a sweep.
    """
    found = _read(manifest.under("spent"))
    if not found:
        return _stages_alone(manifest)
    stages = [one for one in found if len(one.place) == 1]
    total = sum(one.seconds for one in stages)
    cores = manifest.number("spent", "cores")
    return section(
        "stages",
        "Where the time of the run went",
        _stages(stages, total),
        _largest(found, total),
        _note(stages, total, cores),
        _table(found, cores),
        _reused(manifest),
    )


def _read(spent: Facts) -> list[_Spent]:
    """Stages and parts of a manifest, each behind what it is a part of; what is damaged is left out."""
    found: dict[tuple[str, ...], _Spent] = {}
    for entry in spent.each("parts"):
        stage, part, seconds = entry.text("stage"), entry.at("part"), entry.number("seconds")
        if stage is None or not isinstance(part, list) or seconds is None or seconds < 0:
            continue
        if len(found) >= _MOST_ROWS or len(part) > _DEEPEST:
            continue
        place = (fmt.short(stage), *(fmt.short(name, 40) for name in part))
        # What lies within nothing that is known could not be told from the rest.
        if place in found or (len(place) > 1 and place[:-1] not in found):
            continue
        stored, then = entry.number("stored"), entry.number("stored_seconds")
        again = (stored, then) if stored and then is not None else None
        found[place] = _Spent(place, entry.number("count") or 1, seconds, entry.number("cores"), again)
    return list(found.values())


def _stages(stages: list[_Spent], total: float) -> Picture:
    rows = [(one.place[0], one.seconds, one.said) for one in stages]
    said = "; ".join(f"{name} {text}" for name, _, text in rows)
    svg = bars("stages", "Seconds per stage", f"{said}; {fmt.seconds(total)} in all.", rows)
    return Picture(svg, f"{fmt.seconds(total)} in all, stages in order.")


def _largest(found: list[_Spent], total: float) -> list[Block]:
    """The largest parts that have no parts themselves, drawn."""
    last = [one for one in found if len(one.place) > 1 and not any(other.inside(one) for other in found)]
    last = sorted((one for one in last if one.seconds > 0), key=lambda one: -one.seconds)[:_DRAWN]
    if len(last) < 2:
        return []
    rows = [(fmt.short(one.place[-1], 22), one.seconds, one.said) for one in last]
    said = "; ".join(f"{one.place[-1]} of {one.place[0]} {one.said}" for one in last)
    share = sum(one.seconds for one in last) / total if total else 0.0
    svg = bars("parts", "Seconds of the largest parts", f"{said}.", rows)
    return [Picture(svg, f"The largest parts: {fmt.percent(share, 0)} of the run.")]


def _note(stages: list[_Spent], total: float, cores: float | None) -> list[Block]:
    known = [one for one in stages if one.cores is not None]
    if not total or not known or not cores:
        return []
    busy = sum(one.seconds * (one.cores or 0.0) for one in known) / total
    text = f"On average {busy:.1f} of {fmt.count(cores)} cores were busy with this run"
    return [Note(f"{text} ({fmt.percent(busy / cores, 0)}); helper processes are not counted.")]


def _table(found: list[_Spent], cores: float | None) -> list[Block]:
    rows = Rows()

    def add(one: _Spent) -> None:
        depth, parts = len(one.place) - 1, [other for other in found if other.inside(one)]
        name = "· " * depth + one.place[-1] + _stored(one)
        rows.add(Cell(name, strong=not depth), f"{one.count:g}", fmt.seconds(one.seconds), _busy(one.cores, cores))
        for part in parts:
            add(part)
        rest = one.seconds - sum(part.seconds for part in parts)
        if parts and rest >= max(0.1, _REST * one.seconds):
            rows.add("· " * (depth + 1) + "everything else", fmt.UNKNOWN, fmt.seconds(rest), fmt.UNKNOWN)

    for one in found:
        if len(one.place) == 1:
            add(one)
    return rows.table("Stages and their parts", ("", "times", "seconds", "cores busy"))


def _stored(one: _Spent) -> str:
    if one.stored is None:
        return ""
    count, then = one.stored
    of = "" if count == one.count else f"{count:g} of {one.count:g} " if count < one.count else f"{count:g} times "
    return f" ({of}stored, took {fmt.seconds(then)} then)"


def _busy(busy: float | None, cores: float | None) -> str:
    if busy is None:
        return fmt.UNKNOWN
    return f"{busy:.2f}" + (f" ({fmt.percent(busy / cores, 0)})" if cores else "")


def _stages_alone(manifest: Facts) -> Section:
    """Seconds per stage, as artifacts have them that do not know the parts."""
    title = "Where the run's time went"
    found = [(name, as_number(value)) for name, value in manifest.items("seconds")]
    known = [(fmt.short(name), value) for name, value in found if value is not None and value >= 0]
    if not known:
        return section("stages", title)
    known.sort(key=lambda stage: -stage[1])
    total = sum(value for _, value in known)
    rows = [(name, value, fmt.seconds(value)) for name, value in known]
    said = "; ".join(f"{name} {text}" for name, _, text in rows)
    svg = bars("stages", "Seconds per stage", f"{said}; {fmt.seconds(total)} in all.", rows)
    picture = Picture(svg, f"{fmt.seconds(total)} in all, the longest stage first.")
    return section("stages", title, picture, _reused(manifest))


def _reused(manifest: Facts) -> list[Block]:
    """What came from the cache."""
    again = [
        f"{fmt.plain(entry.text('stage') or fmt.UNKNOWN, 40)} ({fmt.plain(entry.text('label') or '', 120)}, "
        f"{fmt.seconds(entry.number('seconds'))} then)"
        for entry in manifest.each("reused")
    ]
    return [Note(f"Taken from what earlier runs had stored: {', '.join(again[:40])}.")] if again else []
