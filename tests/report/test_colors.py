"""Colours: text and pictures can be seen in light and in dark, and nothing has a colour of its own."""

from __future__ import annotations

import re

import pytest

from compress.report.colors import DARK, LIGHT, PALETTES, SHAPES_ON, TEXT_ON, contrast, luminance
from compress.report.html import style_sheet


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.478, abs=1e-3)  # the grey that just fails
    assert luminance("#ff0000") == pytest.approx(0.2126)
    assert contrast("#123456", "#123456") == 1.0


@pytest.mark.parametrize("name", PALETTES)
def test_text_is_legible(name: str) -> None:
    palette = PALETTES[name]
    for text, back in TEXT_ON:
        assert contrast(palette[text], palette[back]) >= 4.5, f"{text} on {back}"
    for shape, back in SHAPES_ON:
        assert contrast(palette[shape], palette[back]) >= 3.0, f"{shape} on {back}"


def test_every_colour_is_of_the_palette() -> None:
    assert set(LIGHT) == set(DARK)
    rules = style_sheet().split("* { box-sizing", 1)[1]
    assert not re.search(r"#[0-9a-fA-F]{3,8}\b(?![^{}]*\{)|rgba?\(|hsla?\(", rules)
    used = set(re.findall(r"var\(--([a-z-]+)\)", rules))
    assert used <= set(LIGHT)
    # What text is coloured with is checked above, on what it may lie on.
    assert set(re.findall(r"(?<![-a-z])color: var\(--([a-z-]+)\)", rules)) <= {text for text, _ in TEXT_ON}
    # No transparency, which would change what was checked.
    assert "opacity" not in rules
