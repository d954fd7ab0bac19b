"""Laws of waiting: a short wait is silent, a long one says one line, a limit ends it, signals get through."""

from __future__ import annotations

import threading
import time

import pytest

from compress.core.waiting import in_background, said


def test_a_short_wait_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with said("waiting for nothing", after=60):
        pass
    assert in_background(lambda: 7, "waiting for seven", after=60) == 7
    assert capsys.readouterr() == ("", "")


def test_a_long_wait_says_one_line_once(capsys: pytest.CaptureFixture[str]) -> None:
    asked = threading.Event()

    def line() -> str:
        asked.set()
        return "waiting for Godot; try another play"

    with said(line, after=0.01):
        assert asked.wait(60)
        time.sleep(0.1)
    assert capsys.readouterr() == ("", "waiting for Godot; try another play\n")


def test_the_line_comes_while_the_work_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    asked = threading.Event()

    def line() -> str:
        asked.set()
        return "waiting"

    assert in_background(lambda: asked.wait(60), line, after=0.01)
    assert capsys.readouterr().err == "waiting\n"


def test_what_the_work_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        in_background(lambda: 1 / 0, "")
    with pytest.raises(SystemExit):
        in_background(lambda: exec("raise SystemExit(5)"), "")


def test_a_limit_ends_the_wait() -> None:
    forever = threading.Event()
    with pytest.raises(TimeoutError):
        in_background(forever.wait, "", limit=0.05)
    forever.set()


def test_a_closed_stderr_is_borne(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", None)
    with said("waiting", after=0.0):
        time.sleep(0.05)
