"""The colours of a report, for light and for dark, and which of them are laid on which.

Laws (``tests/report/test_colors.py``): the contrast of text with what it lies on is at least 4.5, that of what a
picture shows at least 3 (WCAG 2.2, 1.4.3 and 1.4.11).
"""

from __future__ import annotations

from collections.abc import Mapping

LIGHT: dict[str, str] = {
    "page": "#f6f7f9",
    "card": "#ffffff",
    "ink": "#16202c",
    "muted": "#566171",
    "line": "#dde2e8",
    "frame": "#7d8896",
    "link": "#1d4f91",
    "pass": "#0b6b3a",
    "pass-back": "#e5f5eb",
    "fail": "#a61b1b",
    "fail-back": "#fdecec",
    "inconclusive": "#7a4b00",
    "inconclusive-back": "#fdf3dc",
    "first": "#2563a8",
    "second": "#b4490f",
    "third": "#15803d",
    "soft": "#c9d6e6",
}
DARK: dict[str, str] = {
    "page": "#0f141a",
    "card": "#181f28",
    "ink": "#e8ecf1",
    "muted": "#a3afbd",
    "line": "#2b3642",
    "frame": "#76828f",
    "link": "#8fbcf5",
    "pass": "#7fdca4",
    "pass-back": "#12301f",
    "fail": "#ff9c94",
    "fail-back": "#3a1717",
    "inconclusive": "#f2c46b",
    "inconclusive-back": "#35280c",
    "first": "#6fa8ee",
    "second": "#f0955a",
    "third": "#62c988",
    "soft": "#33475f",
}
PALETTES: dict[str, Mapping[str, str]] = {"light": LIGHT, "dark": DARK}
# (text, what it lies on)
TEXT_ON: tuple[tuple[str, str], ...] = (
    *((text, back) for text in ("ink", "muted", "link") for back in ("page", "card")),
    *((text, f"{verdict}-back") for verdict in ("pass", "fail", "inconclusive") for text in (verdict, "ink")),
    *((verdict, "card") for verdict in ("pass", "fail", "inconclusive")),
)
# (part of a picture, what it lies on)
SHAPES_ON: tuple[tuple[str, str], ...] = (
    *((shape, "card") for shape in ("first", "second", "third", "frame")),
    ("link", "page"),
)


def luminance(color: str) -> float:
    """Relative luminance of ``#rrggbb``, 0 black to 1 white (WCAG 2.2)."""
    red, green, blue = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    """Contrast of two colours, 1 (equal) to 21 (black and white), as in WCAG 2.2.

    Args:
        first: ``#rrggbb``.
        second: ``#rrggbb``.
    """
    dark, bright = sorted((luminance(first), luminance(second)))
    return (bright + 0.05) / (dark + 0.05)


def variables(palette: Mapping[str, str]) -> str:
    """A palette as CSS variables."""
    return " ".join(f"--{name}: {color};" for name, color in palette.items())
