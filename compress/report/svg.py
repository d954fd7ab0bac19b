"""Pictures as SVG, from numbers to text. Pure, and without a style: colours are classes of ``style.css``.

Every picture has a title and a description inside, which screen readers speak, and says nothing by colour alone: what
is kept is filled, what is removed is an outline; series differ in the form of their marks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from compress.report.axis import Axis

# Pictures are drawn this wide and shown between 300 and 440 px wide, so that their text stays legible on a phone.
WIDTH = 360.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 18.0, 26.0, 38.0
# Height of a line of a legend.
_LINE = 16.0
# Form of a mark, or ``line`` or ``dashes``; tone; name.
LegendEntry = tuple[str, str, str]
_ROW = 19.0
# More heads than this are a bar, not squares.
_MOST_SQUARES = 24


def element(name: str, *children: str, **attributes: object) -> Markup:
    """An XML element.

    Args:
        name: of the element.
        children: texts, which are escaped, and elements.
        attributes: ``class_`` is class, ``stroke_width`` is stroke-width; None is left out.
    """
    pairs = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None)
    head = "".join(f' {key}="{escape(_value(value))}"' for key, value in pairs)
    inside = "".join(escape(child) for child in children)
    # Names are this module's own; values and texts were escaped just now.
    return Markup(f"<{name}{head}>{inside}</{name}>")  # nosec B704


def _value(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def picture(key: str, title: str, description: str, height: float, parts: Iterable[str]) -> Markup:
    """An SVG element with its title and description.

    Args:
        key: makes the ids of this page's pictures differ.
        title: for those who cannot see it.
        description: the same, in a sentence.
        height: in units of which ``WIDTH`` is the width.
        parts: what it shows.
    """
    return element(
        "svg",
        element("title", title, id=f"{key}-title"),
        element("desc", description, id=f"{key}-desc"),
        *parts,
        viewBox=f"0 0 {WIDTH:g} {height:g}",
        role="img",
        aria_labelledby=f"{key}-title {key}-desc",
    )


def text(x: float, y: float, content: str, class_: str = "", anchor: str | None = None) -> Markup:
    """A text in a picture.

    Args:
        x: of the anchor.
        y: of the base line.
        content: the text; it is escaped.
        class_: of the style sheet; empty for none.
        anchor: SVG's text-anchor: None begins at ``x``, ``middle``, ``end``.
    """
    return element("text", content, x=x, y=y, class_=class_ or None, text_anchor=anchor)


@dataclass(frozen=True)
class Kept:
    """What one layer keeps: positions out of ``of``; positions are shown one by one where there are few."""

    units: tuple[int, ...]
    of: int


def kept(key: str, title: str, layers: Sequence[Kept]) -> Markup:
    """A row per layer: a square per unit (filled: kept, outline: removed), or a bar where there are too many.

    Args:
        key: as in ``picture``.
        title: as in ``picture``.
        layers: what each keeps.
    """
    widest = max((layer.of for layer in layers), default=0)
    squares = widest <= _MOST_SQUARES
    left, right = 50.0, 282.0
    parts: list[Markup] = []
    for number, layer in enumerate(layers):
        y = 4 + number * _ROW
        parts.append(text(left - 8, y + 11, f"layer {number}", "tick", "end"))
        count = len(layer.units)
        if squares:
            step = min(_ROW, (right - left) / max(1, widest))
            side = step - 3
            for unit in range(layer.of):
                there = unit in layer.units
                parts.append(
                    element(
                        "rect",
                        x=left + unit * step + 1.5,
                        y=y + (14 - side) / 2 + 0.5,
                        width=side,
                        height=side,
                        rx=2,
                        class_="kept" if there else "removed",
                    )
                )
        else:
            share = count / layer.of if layer.of else 0.0
            whole = right - left
            parts.append(element("rect", x=left + 1, y=y + 1, width=whole - 2, height=13.0, rx=2, class_="removed"))
            if count:
                width = max(3.0, share * (whole - 2))
                parts.append(element("rect", x=left + 1, y=y + 1, width=width, height=13.0, rx=2, class_="kept"))
        said = f"{count} / {layer.of}" if count else "removed"
        parts.append(text(WIDTH - 2, y + 11, said, "tick strong" if not count else "tick", "end"))
    total, all_ = sum(len(layer.units) for layer in layers), sum(layer.of for layer in layers)
    said = "; ".join(f"layer {i}: {len(layer.units)} of {layer.of}" for i, layer in enumerate(layers))
    return picture(key, title, f"{total} of {all_} kept. {said}.", 8 + len(layers) * _ROW, parts)


@dataclass(frozen=True)
class Mark:
    """A point of a chart.

    Attributes:
        x, y: where.
        form: ``dot``, ``ring``, ``square`` or ``cross``.
        tone: ``first``, ``second`` or ``third``.
        label: beside it; empty for none.
        x_range, y_range: its intervals; None for none.
    """

    x: float
    y: float
    form: str = "dot"
    tone: str = "first"
    label: str = ""
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Line:
    """A line through points; ``dashed`` tells it from another without colour."""

    points: tuple[tuple[float, float], ...]
    tone: str = "first"
    dashed: bool = False


def chart(
    key: str,
    title: str,
    description: str,
    *,
    x_title: str,
    y_title: str,
    marks: Sequence[Mark] = (),
    lines: Sequence[Line] = (),
    legend: Sequence[LegendEntry] = (),
    from_zero: bool = False,
    height: float = 240.0,
) -> Markup:
    """Points and lines on two axes.

    Args:
        key: as in ``picture``.
        title: as in ``picture``.
        description: as in ``picture``.
        x_title: of the axis, with its unit.
        y_title: of the axis, with its unit.
        marks: points to show.
        lines: lines to show; at least one point in all.
        legend: what marks and lines mean, in as many lines as it needs.
        from_zero: whether both axes begin at 0.
        height: of the picture.
    """
    xs = [v for m in marks for v in (m.x, *(m.x_range or ()))] + [x for line in lines for x, _ in line.points]
    ys = [v for m in marks for v in (m.y, *(m.y_range or ()))] + [y for line in lines for _, y in line.points]
    zero = [0.0] if from_zero else []
    across = Axis.over(xs + zero, _LEFT, WIDTH - _RIGHT)
    legend_lines = _in_lines(legend)
    up = Axis.over(ys + zero, height - _BOTTOM, _TOP + _LINE * len(legend_lines))
    parts = _frame(across, up, x_title, y_title, height)
    for line in lines:
        points = " ".join(f"{across.at(x):.1f},{up.at(y):.1f}" for x, y in line.points)
        parts.append(
            element(
                "polyline", points=points, class_=f"line {line.tone}", stroke_dasharray="5 4" if line.dashed else None
            )
        )
    for mark in marks:
        parts += _arms(mark, across, up)
    for mark in marks:
        parts += _mark(across.at(mark.x), up.at(mark.y), mark.form, mark.tone)
    parts += _labels([(across.at(m.x), up.at(m.y), m.label) for m in marks if m.label])
    parts += _legend(legend_lines)
    return picture(key, title, description, height, parts)


def _frame(across: Axis, up: Axis, x_title: str, y_title: str, height: float) -> list[Markup]:
    parts = []
    for y, said in up.labelled():
        parts.append(element("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(text(_LEFT - 6, y + 4, said, "tick", "end"))
    bottom = height - _BOTTOM
    for x, said in across.labelled():
        parts.append(element("line", x1=x, x2=x, y1=bottom, y2=bottom + 4, class_="axis"))
        parts.append(text(x, bottom + 16, said, "tick", "middle"))
    parts.append(element("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=bottom, y2=bottom, class_="axis"))
    parts.append(text(WIDTH - _RIGHT, height - 5, x_title, "name", "end"))
    parts.append(text(4, 13, y_title, "name"))
    return parts


def _arms(mark: Mark, across: Axis, up: Axis) -> list[Markup]:
    x, y = across.at(mark.x), up.at(mark.y)
    parts = []
    if mark.x_range:
        low, high = map(across.at, mark.x_range)
        parts.append(element("line", x1=low, x2=high, y1=y, y2=y, class_=f"arm {mark.tone}"))
    if mark.y_range:
        low, high = map(up.at, mark.y_range)
        parts.append(element("line", x1=x, x2=x, y1=low, y2=high, class_=f"arm {mark.tone}"))
    return parts


def _mark(x: float, y: float, form: str, tone: str, size: float = 4.0) -> list[Markup]:
    if form == "cross":
        ends = ((x - size, y - size, x + size, y + size), (x - size, y + size, x + size, y - size))
        return [element("line", x1=a, y1=b, x2=c, y2=d, class_=f"line {tone}") for a, b, c, d in ends]
    if form == "square":
        return [
            element("rect", x=x - size, y=y - size, width=2 * size, height=2 * size, class_=f"mark {tone}"),
        ]
    return [element("circle", cx=x, cy=y, r=size, class_=f"ring {tone}" if form == "ring" else f"mark {tone}")]


def _labels(wanted: Sequence[tuple[float, float, str]]) -> list[Markup]:
    """Texts beside points, each where it covers no other; below its point where above is taken."""
    taken: list[tuple[float, float, float, float]] = []
    parts = []
    for x, y, content in sorted(wanted):
        width = 7.0 * len(content)  # bold
        left = min(x + 7, WIDTH - _RIGHT - width)
        places = [(left, y + shift) for shift in (-6, 14, -18, 26, -30)]
        boxes = [(a, b - 10, a + width + 4, b + 2) for a, b in places]
        free = next((i for i, box in enumerate(boxes) if not any(_overlap(box, other) for other in taken)), 0)
        taken.append(boxes[free])
        parts.append(text(*places[free], content, "tick strong"))
    return parts


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _in_lines(entries: Sequence[LegendEntry]) -> list[list[tuple[float, LegendEntry]]]:
    """The entries of a legend with their left edges, in as many lines as they need."""
    lines: list[list[tuple[float, LegendEntry]]] = []
    x = WIDTH
    for entry in entries:
        if x + 14 + 6.4 * len(entry[2]) > WIDTH:
            lines.append([])
            x = _LEFT
        lines[-1].append((x, entry))
        x += 26 + 6.0 * len(entry[2])
    return lines


def _legend(lines: Sequence[Sequence[tuple[float, LegendEntry]]]) -> list[Markup]:
    parts: list[Markup] = []
    for number, line in enumerate(lines):
        y = 29.0 + _LINE * number
        for x, (form, tone, name) in line:
            if form in ("line", "dashes"):
                dash = "4 3" if form == "dashes" else None
                ends = {"x1": x - 4, "x2": x + 10, "y1": y, "y2": y}
                parts.append(element("line", **ends, class_=f"line {tone}", stroke_dasharray=dash))
            else:
                parts += _mark(x + 3, y, form, tone)
            parts.append(text(x + 14, y + 4, name, "tick"))
    return parts


def bars(key: str, title: str, description: str, rows: Sequence[tuple[str, float, str]]) -> Markup:
    """A bar per row: its name, its length, and the text behind it.

    Args:
        key: as in ``picture``.
        title: as in ``picture``.
        description: as in ``picture``.
        rows: name, length, text.
    """
    most = max((value for _, value, _ in rows), default=0.0) or 1.0
    name_width = 6.4 * max((len(name) for name, _, _ in rows), default=0)
    left = min(150.0, name_width + 12)
    room = WIDTH - left - 64
    parts = []
    for number, (name, value, said) in enumerate(rows):
        y = 4 + number * 22
        parts.append(text(left - 8, y + 12, name, "tick", "end"))
        length = max(1.5, value / most * room)
        parts.append(element("rect", x=left, y=y + 1, width=length, height=15, rx=2, class_="kept"))
        parts.append(text(left + length + 6, y + 12, said, "tick"))
    return picture(key, title, description, 6 + 22.0 * len(rows), parts)


def pairs(
    key: str,
    title: str,
    description: str,
    rows: Sequence[tuple[str, float, float, tuple[float, float] | None]],
    axis_title: str,
) -> Markup:
    """A row per part: the dense model's value as a ring, the compressed one's as a dot with its interval.

    Args:
        key: as in ``picture``.
        title: as in ``picture``.
        description: as in ``picture``.
        rows: name, dense value, compressed value, interval of the latter (None for none); at least one.
        axis_title: what the values are.
    """
    values = [v for _, dense, ours, bounds in rows for v in (dense, ours, *(bounds or ()))]
    left = min(130.0, 20 + 6.4 * max(len(name) for name, *_ in rows))
    axis = Axis.over(values, left, WIDTH - 16, about=4)
    height = 66.0 + 24 * len(rows)
    parts = []
    for x, said in axis.labelled():
        parts.append(element("line", x1=x, x2=x, y1=26, y2=height - 36, class_="grid"))
        parts.append(text(x, height - 22, said, "tick", "middle"))
    for number, (name, dense, ours, bounds) in enumerate(rows):
        y = 42.0 + 24 * number
        parts.append(text(left - 10, y + 4, name, "tick", "end"))
        if bounds:
            parts.append(element("line", x1=axis.at(bounds[0]), x2=axis.at(bounds[1]), y1=y, y2=y, class_="arm first"))
        parts += _mark(axis.at(ours), y, "dot", "first", 4.5)
        parts += _mark(axis.at(dense), y, "ring", "second", 5.5)
    x = left
    for form, tone, name in (("dot", "first", "compressed, 95 % interval"), ("ring", "second", "dense")):
        parts += _mark(x + 3, 12, form, tone)
        parts.append(text(x + 13, 16, name, "tick"))
        x += 26 + 5.9 * len(name)
    parts.append(text(WIDTH - 16, height - 5, axis_title, "name", "end"))
    return picture(key, title, description, height, parts)
