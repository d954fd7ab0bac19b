"""Plots of profiles: in the terminal, and as PNG, SVG or PDF files."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.core.errors import ProfileError
from compress.profile.latency_profile import Check, CurvePoint, Profile
from compress.profile.latency_table import PiecewiseLinear

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_CURVE_STYLE, _FIT_STYLE = "cyan", "yellow"
_INK, _GRID = "#1f2933", "#e4e7eb"
_ATTENTION, _FFN, _FIT, _CHECK = "#2563eb", "#0d9488", "#d97706", "#7c3aed"
_PLOT_SUFFIXES = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class _Curve:
    """One of a profile's two curves, with its labels."""

    title: str
    unit: str
    color: str
    widths: tuple[int, ...]
    ms: tuple[float, ...]
    fit: PiecewiseLinear
    points: tuple[CurvePoint, ...]

    @property
    def legend(self) -> str:
        """The fit in words."""
        fit = self.fit
        if fit.slope_ms == 0:
            return f"{fit.base_ms:.3g} ms at any width"
        knee = f"{fit.knee} {self.unit}" + "s" * (fit.knee > 1)
        return f"{fit.base_ms:.2g} ms up to {knee}, then {fit.slope_ms * 1000:.3g} µs per {self.unit}"


def _curves(profile: Profile) -> tuple[_Curve, _Curve]:
    table = profile.table

    def points(kind: str) -> tuple[CurvePoint, ...]:
        return tuple(point for point in profile.points if point.kind == kind)

    return (
        _Curve(
            "attention",
            "head",
            _ATTENTION,
            table.heads,
            table.attention_ms,
            profile.attention_fit,
            points("attention"),
        ),
        _Curve("FFN", "filter", _FFN, table.filters, table.ffn_ms, profile.ffn_fit, points("ffn")),
    )


def summary(profile: Profile) -> list[str]:
    """Summary of a profile, one sentence per line."""
    table, shape = profile.table, profile.shape
    attention, ffn = shape.layers * table.attention_ms[-1], shape.layers * table.ffn_ms[-1]
    lines = [
        f"{profile.source} on {profile.target} ({_device(profile)}), {profile.precision}, "
        f"{profile.batch_size} x {profile.seq_len} tokens, {profile.date[:10]}",
        f"dense {table.dense_ms:.2f} ms = {attention:.2f} attention + {ffn:.2f} FFN + {table.fixed_ms:.2f} fixed",
    ]
    lines += [f"{curve.title}: {curve.legend} (piecewise-linear fit)" for curve in _curves(profile)]
    error = profile.median_error
    if error is not None:
        worst = max(abs(check.error) for check in profile.check)
        lines.append(
            f"predicted against measured on {len(profile.check)} random structures: "
            f"median error {error:.1%}, worst {worst:.1%}"
        )
    return lines


def _device(profile: Profile) -> str:
    if "gpu" in profile.device:
        return f"{profile.device['gpu']}, {profile.device.get('gpu_clock_mhz', 'unknown')} MHz"
    processor, threads = profile.device.get("processor", "unknown device"), profile.device.get("threads")
    return f"{processor}, {threads} threads" if threads is not None else str(processor)


# --- terminal ---------------------------------------------------------------------------------------------------------


def draw(profile: Profile, console: Console | None = None) -> None:
    """Print both curves with their fits, the parts of the dense latency, and the check.

    Curves are side by side if the terminal is wide enough, and in plain ASCII if it cannot show Unicode.

    Args:
        profile: measured or estimated.
        console: where to print; None for standard output.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = console or Console(highlight=False)
    ascii_only = not (console.encoding or "ascii").lower().startswith("utf")
    side_by_side = console.width >= 76
    columns = (console.width - 2) // 2 if side_by_side else console.width
    plots = [_plot(curve, columns, 11, ascii_only) for curve in _curves(profile)]
    if side_by_side:
        grid = Table.grid(padding=(0, 1))
        grid.add_row(*plots)
        console.print(grid)
    else:
        for plot in plots:
            console.print(plot)
    key = Text.assemble(("●" if not ascii_only else "*", _CURVE_STYLE), " measured table   ")
    key.append_text(Text.assemble(("●" if not ascii_only else "-", _FIT_STYLE), " piecewise-linear fit"))
    console.print(key)
    for line in summary(profile):
        console.print(Text(line if not ascii_only else line.replace("µ", "u")), soft_wrap=True)
    if profile.check:
        console.print(_check_table(profile.check))


def _check_table(checks: Sequence[Check]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="check on random structures", title_justify="left")
    for name in ("heads kept", "filters kept", "predicted ms", "measured ms", "error"):
        table.add_column(name, justify="right")
    for check in sorted(checks, key=lambda check: check.measured_ms):
        table.add_row(
            str(sum(check.heads)),
            str(sum(check.filters)),
            f"{check.predicted_ms:.2f}",
            f"{check.measured_ms:.2f}",
            f"{check.error:+.1%}",
        )
    return table


class _Canvas:
    """A grid of dots, 2 x 4 to a character (Braille patterns, U+2800), or 1 x 1 in ASCII."""

    # Bits of the eight dots of a Braille character, by row and column.
    _BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))

    def __init__(self, columns: int, lines: int, ascii_only: bool) -> None:
        self._ascii = ascii_only
        self.width, self.height = (columns, lines) if ascii_only else (columns * 2, lines * 4)
        self._cells = [[(0, "")] * columns for _ in range(lines)]

    def dot(self, x: int, y: int, style: str) -> None:
        """Set a dot.

        Args:
            x: column of dots, from the left.
            y: row of dots, from the bottom.
            style: colour of the character; a later one replaces an earlier one.
        """
        if not (0 <= x < self.width and 0 <= y < self.height):
            return
        y = self.height - 1 - y
        if self._ascii:
            self._cells[y][x] = (ord("*" if style == _CURVE_STYLE else "-"), style)
            return
        bits, _ = self._cells[y // 4][x // 2]
        self._cells[y // 4][x // 2] = (bits | self._BITS[y % 4][x % 2], style)

    def lines(self) -> list[Text]:
        """The lines of characters, from the top."""
        from rich.text import Text

        drawn = []
        for row in self._cells:
            text = Text()
            for bits, style in row:
                character = " " if bits == 0 else chr(bits) if self._ascii else chr(0x2800 + bits)
                text.append(character, style or None)
            drawn.append(text)
        return drawn


def _plot(curve: _Curve, columns: int, lines: int, ascii_only: bool) -> Text:
    """One curve with axes, as text of so many columns."""
    from rich.text import Text

    margin = 7
    canvas = _Canvas(max(10, columns - margin - 1), lines, ascii_only)
    top = _round_up(max(*curve.ms, *(curve.fit(width) for width in curve.widths), 1e-6))
    widest = curve.widths[-1]

    def trace(value: Callable[[float], float], style: str) -> None:
        previous: int | None = None
        for x in range(canvas.width):
            width = x / (canvas.width - 1) * widest
            y = round(value(width) / top * (canvas.height - 1))
            # Steep places are drawn as a line, not as two dots far apart.
            for between in range(min(y, y if previous is None else previous + 1), y + 1):
                canvas.dot(x, between, style)
            previous = y

    # The fit does not apply at width 0, so it is not drawn there.
    trace(lambda width: curve.fit(max(width, 1e-9)), _FIT_STYLE)
    trace(lambda width: _interpolated(curve, width), _CURVE_STYLE)
    picture = Text(f"{'ms':>{margin - 1}}  one {curve.title} sublayer, by {curve.unit}s\n", style="bold")
    rows = canvas.lines()
    for number, row in enumerate(rows):
        label = {0: f"{top:g}", lines // 2: f"{top * (lines - 1 - lines // 2) / (lines - 1):.2g}", lines - 1: "0"}
        axis = ("|", "|") if ascii_only else ("┤", "│")
        text = label.get(number, "")
        picture.append(f"{text:>{margin - 1}}{axis[0] if text else axis[1]}", style="dim")
        picture.append_text(row)
        picture.append("\n")
    width = canvas.width if ascii_only else canvas.width // 2
    middle, last = str(widest // 2), str(widest)
    axis_labels = "0" + middle.rjust(width // 2 + len(middle) // 2 - 1)
    axis_labels += last.rjust(width - len(axis_labels))
    picture.append(" " * margin + axis_labels, style="dim")
    return picture


def _interpolated(curve: _Curve, width: float) -> float:
    import numpy as np

    return float(np.interp(width, curve.widths, curve.ms))


def _round_up(value: float) -> float:
    """The next larger number of two digits, a good end of an axis."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return round(math.ceil(round(value / unit, 6)) * unit, 12)


# --- files ------------------------------------------------------------------------------------------------------------


def save_plot(profile: Profile, path: str | Path) -> None:
    """Plot the curves, their fits and the check into a file.

    Args:
        profile: measured or estimated; an estimated one has no check, and the plot no panel for it.
        path: ends in ``.png``, ``.svg`` or ``.pdf``.

    Raises:
        ProfileError: the path has another ending, matplotlib is not installed, or the file cannot be written.
    """
    file = Path(path)
    if file.suffix.lower() not in _PLOT_SUFFIXES:
        raise ProfileError(f"cannot draw '{file}': the file must end in {', '.join(_PLOT_SUFFIXES)}")
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ProfileError(
            "drawing needs matplotlib, which is not installed; install the extra: pip install 'compress[plot]'"
        ) from None
    style = {
        "font.size": 11,
        "axes.edgecolor": _INK,
        "axes.labelcolor": _INK,
        "text.color": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "svg.fonttype": "none",
        # So that equal profiles give equal files.
        "svg.hashsalt": "compress",
    }
    with rc_context(style):
        panels = 3 if profile.check else 2
        figure = Figure(figsize=(4.9 * panels, 5.0), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, panels)
        for axis, curve in zip(axes, _curves(profile), strict=False):
            _panel(axis, curve)
        if profile.check:
            _check_panel(axes[2], profile)
        shape, table = profile.shape, profile.table
        figure.suptitle(
            f"{shape.model_type}, {shape.layers} layers × {shape.heads} heads, {shape.filters} filters: "
            f"{table.dense_ms:.1f} ms per call, {profile.source} on {profile.target}",
            x=0.01,
            ha="left",
            fontsize=14,
            fontweight="bold",
        )
        figure.supxlabel(
            f"{_device(profile)} · {profile.precision} · {profile.batch_size} × {profile.seq_len} tokens · "
            f"fixed part {table.fixed_ms:.2f} ms · {profile.date[:10]}",
            x=0.01,
            ha="left",
            fontsize=9,
            color="#52606d",
        )
        try:
            metadata = {"Date": None} if file.suffix.lower() == ".svg" else None
            figure.savefig(file, dpi=170, metadata=metadata)
        except OSError as error:
            raise ProfileError(f"cannot write '{file}': {error}") from None


def _panel(axis: Any, curve: _Curve) -> None:
    """One sublayer's milliseconds by its width: raw measurements, table and fit."""
    if curve.points:
        axis.errorbar(
            [point.width for point in curve.points],
            [point.ms for point in curve.points],
            # A point is the difference of two totals over several layers: their uncertainty, for one sublayer.
            yerr=[abs(curve.ms[-1]) * point.spread for point in curve.points],
            fmt="o",
            markersize=4,
            color=curve.color,
            alpha=0.35,
            elinewidth=1,
            label="measured",
            zorder=2,
        )
    axis.plot(curve.widths, curve.ms, color=curve.color, linewidth=2.2, label="latency table", zorder=3)
    x = [1, *(width for width in curve.widths if width > 1)]
    if curve.fit.knee not in x:
        x = sorted([*x, curve.fit.knee])
    axis.plot(
        x, [curve.fit(width) for width in x], "--", color=_FIT, linewidth=1.8, label="piecewise-linear fit", zorder=4
    )
    axis.plot([curve.fit.knee], [curve.fit.base_ms], "D", color=_FIT, markersize=6, zorder=5)
    axis.set_title(f"One {curve.title} sublayer", fontsize=12)
    axis.text(0.02, 0.99, curve.legend, transform=axis.transAxes, fontsize=9, color="#52606d", va="top")
    axis.set_xlabel(f"{curve.unit}s kept")
    axis.set_ylabel("milliseconds")
    axis.set_xlim(-0.02 * curve.widths[-1], curve.widths[-1] * 1.02)
    # Space at the top for the line of text; none below 0, the cost of a removed sublayer.
    axis.set_ylim(0, 1.18 * max(*curve.ms, *(point.ms for point in curve.points), curve.fit(curve.widths[-1]), 1e-6))
    axis.grid(axis="y", color=_GRID)
    axis.set_axisbelow(True)
    axis.legend(frameon=False, loc="lower right", fontsize=9)


def _check_panel(axis: Any, profile: Profile) -> None:
    """Predicted against measured latency of structures that the table was not fitted to."""
    measured = [check.measured_ms for check in profile.check]
    predicted = [check.predicted_ms for check in profile.check]
    top = 1.12 * max(*measured, *predicted)
    axis.fill_between([0, top], [0, 0.95 * top], [0, 1.05 * top], color=_GRID, label="± 5 %", zorder=1)
    axis.plot([0, top], [0, top], color=_INK, linewidth=1, zorder=2)
    axis.plot(measured, predicted, "o", color=_CHECK, markersize=7, label="random structures", zorder=3)
    axis.set_xlim(0, top)
    axis.set_ylim(0, top)
    axis.set_aspect("equal", adjustable="box")
    axis.set_title("Whole model", fontsize=12)
    axis.text(
        0.03,
        0.97,
        f"median error {profile.median_error:.1%}",
        transform=axis.transAxes,
        fontsize=9,
        va="top",
        color=_INK,
    )
    axis.set_xlabel("measured milliseconds")
    axis.set_ylabel("predicted milliseconds")
    axis.legend(frameon=False, loc="lower right", fontsize=9)
