"""Seconds by stage and part: each behind what it is a part of, whatever runs how often and ends when."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from compress.core.time_spent import STORED, TimeSpent
from compress.core.trace import Span, recording, span

SECOND = 10**9


def _span(path: str, start: float, end: float, worked: float = 0.0, **notes: Any) -> Span:
    return Span(tuple(path.split("/")), int(start * SECOND), int(end * SECOND), int(worked * SECOND), 1, notes)


def _parts(*stages: list[Span]) -> list[dict[str, Any]]:
    spent = TimeSpent()
    for spans in stages:
        spent.add(spans)
    return list(spent.document()["parts"])


def test_parts_are_summed_behind_their_stage_also_where_it_runs_twice() -> None:
    found = _parts(
        [_span("search/try-out", 0, 2, 4), _span("search", 0, 3, 4)],
        [_span("export", 3, 4, 1)],
        [_span("search/try-out", 4, 5, 1), _span("search/check", 5, 6, 1), _span("search", 4, 6, 2)],
    )
    assert [(one["stage"], one["part"], one["count"], one["seconds"], one["cores"]) for one in found] == [
        ("search", [], 2, 5.0, 1.2),
        ("search", ["try-out"], 2, 3.0, 1.67),
        ("search", ["check"], 1, 1.0, 1.0),
        ("export", [], 1, 1.0, 1.0),
    ]


def test_a_stored_result_that_is_its_whole_stage_is_one_with_it() -> None:
    found = _parts(
        [
            _span("calibrate/calibrate/gradients", 0, 1),
            _span("calibrate/calibrate", 0, 2, **{STORED: 12.5}),
            _span("calibrate", 0, 3),
        ]
    )
    assert [(one["part"], one["seconds"]) for one in found] == [([], 3.0), (["gradients"], 1.0)]
    assert (found[0]["stored"], found[0][STORED]) == (1, 12.5) and STORED not in found[1]


def test_of_two_results_of_one_stage_each_counts() -> None:
    spans = [
        _span("profile/profile", 0, 1, **{STORED: 20.0}),
        _span("profile/profile/form", 2, 3),
        _span("profile/profile", 1, 4),
        _span("profile", 0, 4),
    ]
    found = _parts(spans)
    assert [(one["part"], one["count"]) for one in found] == [([], 1), (["profile"], 2), (["profile", "form"], 1)]
    assert found[1]["stored"] == 1 and "stored" not in found[0]


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4), min_size=1, max_size=12))
def test_whatever_runs_within_what_every_part_is_behind_its_whole_and_no_longer(paths: list[list[str]]) -> None:
    spent = TimeSpent()
    for path in paths:
        with recording() as spans:
            _nested(path)
        spent.add(spans)
    parts = spent.document()["parts"]
    places = [(one["stage"], *one["part"]) for one in parts]
    assert len(set(places)) == len(places)
    seconds = {place: one["seconds"] for place, one in zip(places, parts, strict=True)}
    for number, place in enumerate(places):
        if len(place) > 1:
            assert place[:-1] in places[:number]
            # Rounded to milliseconds.
            assert seconds[place] <= seconds[place[:-1]] + 0.001


def _nested(path: list[str]) -> None:
    with span(path[0]):
        if path[1:]:
            _nested(path[1:])
