"""Pictures: well-formed, described, and saying what the numbers say."""

from __future__ import annotations

import itertools
import math
from xml.etree import ElementTree

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from compress.report.axis import Axis, label, ticks
from compress.report.svg import Kept, Line, Mark, bars, chart, element, kept, pairs

finite = st.floats(-1e9, 1e9)


def parsed(svg: str) -> ElementTree.Element:
    """The picture, after the checks that hold for all."""
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img"
    title, description = root[0], root[1]
    assert (title.tag, description.tag) == ("title", "desc") and title.text and description.text
    assert root.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
    for node in root.iter():
        # Colours come from the style sheet: the page's policy allows no style on an element.
        assert not {"style", "fill", "stroke"} & set(node.keys())
        for name, value in node.attrib.items():
            assert "nan" not in value and "inf" not in value, f"{name}={value}"
    return root


@given(finite, finite, st.integers(2, 8))
def test_ticks_are_round_and_cover(low: float, high: float, about: int) -> None:
    marks = ticks(low, high, about)
    assert all(a < b for a, b in itertools.pairwise(marks))
    slack = 1e-6 * max(abs(low), abs(high), marks[1] - marks[0])
    assert marks[0] <= min(low, high) + slack and marks[-1] >= max(low, high) - slack
    assert 2 <= len(marks) <= about + 3


def test_ticks_refuse_what_is_no_number() -> None:
    with pytest.raises(ValueError, match="finite ends"):
        ticks(0.0, math.inf)


def test_labels_have_the_decimals_of_the_step() -> None:
    assert [text for _, text in Axis.over([0.0, 1.0], 0, 100).labelled()] == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    assert [label(v, 500.0) for v in (0.0, 500.0, -500.0)] == ["0", "500", "-500"]
    assert label(-1e-17, 0.2) == "0.0"


@given(st.lists(finite, min_size=1, max_size=5), finite)
def test_positions_are_within_the_axis(values: list[float], start: float) -> None:
    assume(max(values) - min(values) < 1e9)
    axis = Axis.over(values, 10.0, 110.0)
    assert all(10.0 - 1e-3 <= axis.at(value) <= 110.0 + 1e-3 for value in values)


def test_elements_escape_everything() -> None:
    made = element("text", "<script>&", x=1.0, data_name='"><script>')
    assert made == '<text x="1" data-name="&#34;&gt;&lt;script&gt;">&lt;script&gt;&amp;</text>'
    assert element("g", element("text", "a")) == "<g><text>a</text></g>"


@given(st.lists(st.tuples(st.integers(1, 16), st.data()), min_size=1, max_size=4))
def test_every_unit_is_a_square_kept_or_removed(layers: list[tuple[int, st.DataObject]]) -> None:
    drawn = [Kept(tuple(sorted(data.draw(st.sets(st.integers(0, of - 1))))), of) for of, data in layers]
    root = parsed(kept("k", "Heads", drawn))
    squares = [node.get("class") for node in root.iter("rect")]
    assert squares.count("kept") == sum(len(layer.units) for layer in drawn)
    assert len(squares) == sum(layer.of for layer in drawn)
    texts = [node.text for node in root.iter("text")]
    assert texts.count("removed") == sum(not layer.units for layer in drawn)


def test_many_units_are_a_bar() -> None:
    root = parsed(kept("k", "Filters", [Kept(tuple(range(768)), 1536), Kept((), 1536), Kept((5,), 1536)]))
    widths = [float(node.get("width", "")) for node in root.iter("rect") if node.get("class") == "kept"]
    whole = next(float(node.get("width", "")) for node in root.iter("rect") if node.get("class") == "removed")
    # Half a bar; nothing at all where nothing is kept; one filter of many is still seen.
    assert widths[0] == pytest.approx(whole / 2) and len(widths) == 2 and widths[1] >= 3


@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=6), st.booleans(), st.booleans())
def test_charts_of_any_points(points: list[tuple[float, float]], from_zero: bool, ranges: bool) -> None:
    marks = [
        Mark(x, y, ("dot", "ring", "square", "cross")[i % 4], label=f"p{i}", y_range=(y - 1, y + 1) if ranges else None)
        for i, (x, y) in enumerate(points)
    ]
    svg = chart(
        "c",
        "Title",
        "Words",
        x_title="x",
        y_title="y",
        marks=marks,
        lines=[Line(tuple(points), "second", True)],
        legend=[("dot", "first", "a"), ("dashes", "second", "b")],
        from_zero=from_zero,
    )
    texts = {node.text for node in parsed(svg).iter("text")}
    assert {f"p{i}" for i in range(len(points))} | {"x", "y", "a", "b"} <= texts


def test_labels_of_close_points_do_not_cover_each_other() -> None:
    marks = [Mark(1.0 + i / 1000, 1.0, label=f"{i}x") for i in range(4)]
    root = parsed(chart("c", "Title", "Words", x_title="x", y_title="y", marks=[*marks, Mark(9.0, 9.0)]))
    places = {(n.get("x"), n.get("y")) for n in root.iter("text") if n.text in {f"{i}x" for i in range(4)}}
    assert len({y for _, y in places}) == 4


def test_a_long_legend_takes_more_lines_and_stays_within_the_picture() -> None:
    names = ["fp32 dense", "int8 dense", "int8 pruned", "fp32 pruned", "int8 refused"]
    legend = [("dot", "first", name) for name in names]
    root = parsed(chart("c", "Title", "Words", x_title="x", y_title="y", marks=[Mark(1.0, 1.0)], legend=legend))
    width = float(str(root.get("viewBox")).split()[2])
    texts = {n.text: n for n in root.iter("text") if n.text in names}
    assert all(float(n.get("x", "")) + 6.4 * len(name) <= width for name, n in texts.items() if name)
    assert len({n.get("y") for n in texts.values()}) == 2
    marks = [float(n.get("cy", "")) for n in root.iter("circle")]
    assert max(float(n.get("y", "")) for n in texts.values()) < marks[0]  # the point is below the legend


def test_bars_and_pairs() -> None:
    root = parsed(bars("b", "Seconds", "Words", [("load", 2.0, "2 s"), ("search", 8.0, "8 s"), ("none", 0.0, "0 s")]))
    short, long, none = (float(node.get("width", "")) for node in root.iter("rect"))
    assert long == pytest.approx(4 * short) and none > 0
    root = parsed(pairs("p", "By class", "Words", [("a", 0.9, 0.8, (0.7, 0.9)), ("b", 0.5, 0.5, None)], "recall"))
    assert {"a", "b", "dense", "recall"} <= {node.text for node in root.iter("text")}
    assert parsed(bars("b", "Seconds", "Words", [])) is not None
