"""Progress and tables: plain lines in a log, a live line on a terminal, never anything that breaks either."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from compress.cli.progress import Live, Plain, progress_for
from compress.cli.terminal import bar
from compress.core.progress import Progress, Silent


def use(progress: Progress) -> None:
    with progress.stage("outer [stage]"):
        progress.info("a remark with [markup] in it")
        with progress.stage("inner"):
            pass


def test_plain_lines() -> None:
    stream = io.StringIO()
    use(Plain(stream))
    lines = [re.sub(r"^\[ +\d+\.\d s\] ", "", line) for line in stream.getvalue().splitlines()]
    assert lines[:3] == ["outer [stage]", "  a remark with [markup] in it", "inner"]
    assert [line.split(":")[0] for line in lines[3:]] == ["inner", "outer [stage]"]


def test_live_lines() -> None:
    stream = io.StringIO()
    use(Live(Console(file=stream, force_terminal=True, width=80)))
    text = stream.getvalue()
    assert "a remark with [markup] in it" in text
    assert text.index("inner") < text.rindex("outer [stage]")


@pytest.mark.parametrize(
    "kind", [Silent(), Plain(io.StringIO()), Live(Console(file=io.StringIO()))], ids=lambda kind: type(kind).__name__
)
def test_an_error_passes_through(kind: Progress) -> None:
    with pytest.raises(ValueError, match="inside"), kind.stage("stage"):
        raise ValueError("inside")


def test_the_kind_fits_the_stream() -> None:
    assert isinstance(progress_for(io.StringIO()), Plain)
    assert isinstance(progress_for(io.StringIO(), quiet=True), Silent)


@given(of=st.integers(1, 5000), data=st.data(), ascii_only=st.booleans())
def test_a_bar_is_full_only_when_all_is_kept_and_empty_only_when_nothing_is(
    of: int, data: st.DataObject, ascii_only: bool
) -> None:
    kept = data.draw(st.integers(0, of))
    drawn = bar(kept, of, ascii_only=ascii_only)
    on, off = "#." if ascii_only else "█░"
    assert len(drawn) == 24
    assert (off not in drawn) == (kept == of)
    assert (on not in drawn) == (kept == 0)
