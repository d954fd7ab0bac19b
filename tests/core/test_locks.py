"""Laws of locks: one holder at a time, who is named; a lock ends with its process, however that ends."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import re
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from compress.core.locks import Held, only_one


def test_a_second_holder_is_refused_and_told_who_the_first_is(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with only_one(path) as alone:
        assert alone
        with pytest.raises(Held, match=f"process {os.getpid()} on .*, since 20"), only_one(path):
            pass
        # The refused one has taken nothing away.
        with pytest.raises(Held), only_one(path):
            pass
    assert not path.exists()
    with only_one(path, keep=True) as alone:
        assert alone
    assert path.exists()


def _hold(path: str, pipe: Any) -> None:
    with only_one(Path(path)):
        pipe.send("held")
        signal.pause()


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_hold, args=(str(path), theirs))
    process.start()
    assert ours.recv() == "held"
    with pytest.raises(Held, match=f"process {process.pid} "), only_one(path):
        pass
    process.kill()
    process.join()
    assert path.exists()
    with only_one(path) as alone:
        assert alone
    assert not path.exists()


def test_who_waits_says_for_whom_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("compress.core.waiting.SAY_AFTER", 0.05)
    path = tmp_path / "a.lock"
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_hold, args=(str(path), theirs))
    process.start()
    try:
        assert ours.recv() == "held"
        capsys.readouterr()
        held = pytest.raises(Held, match=f"process {process.pid} ")
        with held, only_one(path, wait_seconds=0.5, what="the cache"):
            pass
        line = (
            rf"waiting for the cache, for at most 0\.5 s: process {process.pid} on .* has it\. If that process hangs.*"
        )
        assert re.fullmatch(line + "\n", capsys.readouterr().err)
        # Who comes while it ends gets the lock.
        threading.Timer(0.2, process.kill).start()
        with only_one(path, wait_seconds=60) as alone:
            assert alone
    finally:
        process.kill()
        process.join()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"process": "x"}', "\x00" * 10, '{"process": 1}'])
def test_a_lock_file_of_somebody_else_is_no_riddle(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.lock"
    with only_one(path):
        path.write_text(text)
        with pytest.raises(Held, match="another process"), only_one(path):
            pass


def test_no_lock_is_made_where_there_is_no_directory(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), only_one(tmp_path / "absent" / "a.lock"):
        pass


def test_where_no_file_can_be_made_nobody_is_waited_for() -> None:
    # As some network file systems do, this one answers "no such file" to who makes one.
    folder = Path("/proc/self")
    if not folder.is_dir():
        pytest.skip("needs Linux")
    with pytest.raises(FileNotFoundError), only_one(folder / ".x.lock"):
        pass


def test_a_file_system_without_locks_locks_nothing_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with only_one(tmp_path / "a.lock") as alone:
        assert not alone
