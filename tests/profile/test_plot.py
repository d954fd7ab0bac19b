"""Pictures of profiles: on every terminal, and as files that are what their ending says."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from compress.core.errors import ProfileError
from compress.profile.latency_table import LatencyTable
from compress.profile.plot import draw, save_plot, summary
from support.profiles import PROFILE, a_profile


def _drawn(width: int, encoding: str = "utf-8", profile=PROFILE) -> str:  # type: ignore[no-untyped-def]
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    draw(profile, Console(file=file, width=width, highlight=False))
    file.flush()
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("width", [40, 60, 76, 80, 120, 200])
def test_any_terminal_width(width: int) -> None:
    picture = [line for line in _drawn(width).splitlines() if "│" in line or "┤" in line]
    assert picture
    assert max(map(len, picture)) <= width
    assert ("│" in picture[1][10:]) == (width >= 76), "side by side where there is room"


def test_terminals_without_unicode_get_ascii() -> None:
    text = _drawn(80, "ascii")
    assert "*" in text
    assert "µ" not in text


def test_both_curves_reach_both_ends() -> None:
    """The table's curve goes from the lower left to the upper right of its canvas."""
    rows = [line for line in _drawn(60, "ascii").splitlines() if "|" in line][:11]
    marks = [[x for x, mark in enumerate(row) if mark == "*"] for row in rows]
    assert min(marks[-1]) < 10
    assert max(mark for row in marks[:3] for mark in row) > 50


def test_summary_says_dense_fixed_fit_and_error() -> None:
    text = "\n".join(summary(PROFILE))
    for words in (
        "dense 7.20 ms = 2.00 attention + 4.40 FFN",
        "0.80 fixed",
        "then 150 µs per head",
        "3 random structures",
        "median error 3.0%",
        "10.0%",
    ):
        assert words in text
    assert "measured on cpu (simulated, 2 threads)" in text


def test_estimated_profiles_say_so_and_need_no_measurements() -> None:
    estimated = a_profile(source="estimated", points=(), check=(), device={})
    assert summary(estimated)[0].startswith("estimated on cpu")
    assert "random structures" not in _drawn(100, profile=estimated)


@pytest.mark.parametrize(("name", "start"), [("p.png", b"\x89PNG"), ("p.svg", b"<?xml"), ("P.PNG", b"\x89PNG")])
@pytest.mark.parametrize("checked", [True, False])
def test_files(tmp_path: Path, name: str, start: bytes, checked: bool) -> None:
    pytest.importorskip("matplotlib")
    save_plot(PROFILE if checked else a_profile(points=(), check=()), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)


def test_equal_profiles_give_equal_svg_with_text_one_can_search(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    save_plot(PROFILE, tmp_path / "a.svg")
    save_plot(PROFILE, tmp_path / "b.svg")
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    for words in ("filters kept", "piecewise-linear fit", "Whole model"):
        assert words in text


def test_flat_and_nearly_free_curves_can_be_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    table = PROFILE.table
    flat = LatencyTable(table.layers, table.heads, (0.0,) * 5, table.filters, table.ffn_ms, table.fixed_ms)
    profile = PROFILE.with_table(flat)
    save_plot(profile, tmp_path / "flat.png")
    assert "at any width" in _drawn(80, profile=profile)


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProfileError, match=r"must end in \.png, \.svg"):
        save_plot(PROFILE, tmp_path / "plot.gif")
    with pytest.raises(ProfileError, match="must end in"):
        save_plot(PROFILE, tmp_path / "plot")
    pytest.importorskip("matplotlib")
    with pytest.raises(ProfileError, match="cannot write"):
        save_plot(PROFILE, tmp_path / "no" / "folder.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ProfileError, match=r"pip install 'compress\[plot\]'"):
        save_plot(PROFILE, tmp_path / "plot.png")
