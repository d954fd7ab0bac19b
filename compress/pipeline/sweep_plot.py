"""The front of a sweep as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from compress.core.errors import ConfigError

if TYPE_CHECKING:
    from compress.pipeline.sweep_result import Swept

_INK, _FRONT = "#1f2933", "#9aa5b1"
_COLORS = {"fp32": "#2563a8", "int8": "#c2410c", "fp16": "#15803d"}


def _arms(value: float, interval: tuple[float, float]) -> list[list[float]]:
    """Lengths of error bars, below and above."""
    return [[max(0.0, value - interval[0])], [max(0.0, interval[1] - value)]]


def save_front(swept: Swept, path: Path) -> None:
    """Accuracy against measured latency, intervals included; dense variants are squares, the front is a line.

    Args:
        swept: at least one point.
        path: ends in .png, .svg or .pdf.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError(
            "drawing needs matplotlib, which is not installed; install the extra: pip install 'compress[plot]'"
        ) from None
    style = {"font.size": 11, "axes.edgecolor": _INK, "text.color": _INK, "axes.labelcolor": _INK}
    with rc_context({**style, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "compress"}):
        figure = Figure(figsize=(8.0, 5.2), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        axis = figure.subplots()
        front = sorted((p for p in swept.points if p.front), key=lambda p: p.latency_ms)
        axis.plot([p.latency_ms for p in front], [p.metric for p in front], color=_FRONT, linewidth=1.5, zorder=1)
        labelled: set[str] = set()
        for point in swept.points:
            dense = point.budget == "dense"
            name = f"{point.precision}, {'dense' if dense else 'pruned'}" + (" (refused)" if point.refused else "")
            axis.errorbar(
                [point.latency_ms],
                [point.metric],
                xerr=_arms(point.latency_ms, point.latency_ci95),
                yerr=_arms(point.metric, point.metric_ci95),
                fmt="x" if point.refused else "s" if dense else "o",
                color=_COLORS.get(point.precision, _INK),
                elinewidth=0.7,
                markersize=7,
                label=None if name in labelled else name,
                zorder=3,
            )
            labelled.add(name)
            axis.annotate(
                point.budget, (point.latency_ms, point.metric), (6, 5), textcoords="offset points", fontsize=9
            )
        axis.set_xlabel("milliseconds per call, measured")
        axis.set_ylabel(swept.metric_name)
        axis.legend(frameon=False, loc="lower right")
        deployment = swept.deployment
        device = deployment["device"]
        axis.set_title(
            f"{device['processor']}, {device['threads']} threads · {deployment['target']} · "
            f"{deployment['batch_size']} x {deployment['seq_len']} tokens",
            fontsize=10,
            loc="left",
        )
        figure.savefig(path, dpi=150)
