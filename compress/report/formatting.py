"""Values as words: how many digits a quantity has, and what is written where nothing is known."""

from __future__ import annotations

import re
from collections.abc import Sequence

UNKNOWN = "–"
# Control characters, and those that turn the direction of text around: a name must not change what stands beside it.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


def plain(value: object, most: int = 400) -> str:
    """Text from outside: characters that cannot be seen become visible, and a long text is cut.

    Args:
        value: anything that has a text.
        most: characters.
    """
    text = _UNSEEN.sub("\ufffd", str(value))
    return text if len(text) <= most else text[: most - 1] + "…"


def short(value: object, most: int = 18) -> str:
    """Text from outside, cut to fit into a picture.

    Args:
        value: anything that has a text.
        most: characters.
    """
    return plain(value, most)


def milliseconds(value: float | None) -> str:
    """Milliseconds, with two digits or more that count."""
    if value is None:
        return UNKNOWN
    return f"{value:.2f} ms" if abs(value) >= 0.1 else f"{value:.4f} ms"


def seconds(value: float | None) -> str:
    """Seconds, or minutes from two of them on."""
    if value is None:
        return UNKNOWN
    return f"{value:.1f} s" if value < 120 else f"{int(value // 60)} min {value % 60:02.0f} s"


def times(value: float | None) -> str:
    """A ratio: 2.08×."""
    return UNKNOWN if value is None else f"{value:.2f}×"


def score(value: float | None) -> str:
    """A metric, with four decimals."""
    return UNKNOWN if value is None else f"{value:.4f}"


def signed(value: float | None, template: str = "+.4f") -> str:
    """A difference with its sign; zero is ±0.

    Args:
        value: the difference; None is not known.
        template: of ``format``.
    """
    if value is None:
        return UNKNOWN
    return format(value, template).replace("-", "−") if round(value, 6) else "±0"


def percent(value: float | None, decimals: int = 1) -> str:
    """A fraction in percent.

    Args:
        value: the fraction; None is not known.
        decimals: of the percentage.
    """
    return UNKNOWN if value is None else f"{100 * value:.{decimals}f} %"


def difference(value: float | None) -> str:
    """An absolute difference of outputs: two digits that count."""
    return UNKNOWN if value is None else f"{value:.2g}"


def megabytes(value: float | None) -> str:
    """Bytes in MB, or in kB below 0.1 MB."""
    return UNKNOWN if value is None else f"{value / 1e6:.1f} MB" if value >= 1e5 else f"{value / 1e3:.1f} kB"


def count(value: float | None) -> str:
    """A whole number with thin spaces between thousands."""
    return UNKNOWN if value is None else f"{round(value):,}".replace(",", "\u202f")


def between(bounds: Sequence[float] | None, template: str = ".2f") -> str:
    """An interval: ``4.70 to 4.95``.

    Args:
        bounds: its ends; None is not known.
        template: of ``format``, for each end.
    """
    if not bounds:
        return UNKNOWN
    low, high = (format(round(bound, 6) + 0.0, template).replace("-", "−") for bound in bounds)
    return f"{low} to {high}"
