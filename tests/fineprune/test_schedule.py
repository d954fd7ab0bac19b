"""The schedule's laws: its end points, and that it never rises."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.fineprune.schedule import Schedule


@given(
    end=st.floats(0, 1e3),
    more=st.floats(0, 1e3),
    first=st.integers(0, 50),
    last=st.integers(0, 50),
    between=st.integers(1, 200),
)
def test_it_begins_at_the_start_ends_at_the_end_exactly_and_never_rises(
    end: float, more: float, first: int, last: int, between: int
) -> None:
    start, steps = end + more, first + between + last
    schedule = Schedule(start, end, steps, first, last)
    values = [schedule.at(step) for step in range(steps + 1)]
    assert values[: first + 1] == pytest.approx([start] * (first + 1))
    assert values[steps - last :] == [end] * (last + 1)
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in pairwise(values))
    assert [schedule.frozen(step) for step in (steps - last - 1, steps - last)] == [False, True]


def test_half_way_an_eighth_of_the_way_is_left() -> None:
    assert Schedule(9.0, 1.0, 120, 10, 10).at(60) == 1.0 + 8.0 / 8


@pytest.mark.parametrize(("end", "first", "last"), [(2.0, 0, 0), (0.5, 5, 5), (0.5, -1, 0)])
def test_a_schedule_that_cannot_be_is_refused(end: float, first: int, last: int) -> None:
    with pytest.raises(ValueError, match="no budget can fall"):
        Schedule(1.0, end, 10, first, last)
