"""Laws of memory: every run writes, only a resuming one reads, and what it used is said."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compress.cache.entry import RECORD
from compress.cache.memo import Codec, Foreseen, Memory, NotStored, Step, duration
from compress.cache.store import Store


def write(text: str, folder: Path) -> None:
    (folder / "a").write_text(text)


def read(folder: Path) -> str:
    return (folder / "a").read_text()


CODEC = Codec(write, read)


def step(name: str = "profile", **inputs: Any) -> Step[str]:
    return Step(name, inputs, CODEC, "tiny")


def never() -> str:
    raise AssertionError("made again")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def test_every_run_writes_and_only_a_resuming_one_reads(store: Store, tmp_path: Path) -> None:
    said: list[str] = []
    for text in ("first", "second"):
        memory = Memory(store, tmp_path / text)
        assert memory.result(step(a=1), lambda text=text: text, said.append) == text  # type: ignore[misc]
        assert memory.reused == [] and said == []
    memory = Memory(store, tmp_path / "third", reading=True)
    assert memory.result(step(a=1), never, said.append) == "second"
    assert [entry["stage"] for entry in memory.reused] == ["profile"]
    assert said[0].startswith("profile (tiny): stored ") and said[0].endswith("s then, used again")
    assert memory.result(step(a=2), lambda: "other", said.append) == "other"
    assert len(said) == 1


def test_without_making_what_is_not_there_is_told(store: Store, tmp_path: Path) -> None:
    Memory(store, tmp_path / "a").result(step(a=1), lambda: "made", print)
    memory = Memory(store, tmp_path / "b", reading=True, making=False)
    assert memory.result(step(a=1), never, print) == "made"
    with pytest.raises(NotStored):
        memory.result(step(a=2), never, print)
    assert [(met.inputs, entry is None) for met, entry in memory.met] == [({"a": 1}, False), ({"a": 2}, True)]
    assert len(store.entries()) == 1


def test_an_old_measurement_is_said_to_be_old_and_an_old_calibration_is_not(store: Store, tmp_path: Path) -> None:
    for name, old in (("profile", True), ("calibrate", False)):
        described = replace(step(name), measured=old)
        Memory(store, tmp_path / "a").result(described, lambda: "made", print)
        said: list[str] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("time.time", lambda: os.stat(tmp_path).st_mtime + 3 * 86400 + 60)
            Memory(store, tmp_path / "b", reading=True).result(described, never, said.append)
        assert ("the device may have changed" in said[0]) == old
        assert "stored 3 days ago" in said[0]


def test_what_cannot_be_read_is_named_and_made_again(store: Store, tmp_path: Path) -> None:
    def refuses(_: Path) -> str:
        raise ValueError("it is of the wrong shape")

    said: list[str] = []
    Memory(store, tmp_path / "a").result(step(), lambda: "made", said.append)
    unreadable = Step("profile", {}, Codec(CODEC.write, refuses), "tiny")
    assert Memory(store, tmp_path / "b", reading=True).result(unreadable, lambda: "again", said.append) == "again"
    assert said == [
        "warning: the stored result of 'profile' is damaged and not used: it is of the wrong shape; it is made again"
    ]
    (store.entries()[0].path / RECORD).write_text("{}")
    assert Memory(store, tmp_path / "c", reading=True).result(step(), lambda: "sound", said.append) == "sound"
    assert "record is cut off or not JSON" in said[1]
    assert Memory(store, tmp_path / "d", reading=True).result(step(), never, said.append) == "sound"


def test_what_cannot_be_stored_is_said_and_used_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    said: list[str] = []
    memory = Memory(Store(tmp_path / "file" / "cache"), tmp_path / "a", reading=True)
    assert memory.result(step(), lambda: "made", said.append) == "made"
    assert len(said) == 1 and said[0].startswith(
        "warning: the result of 'profile' is not stored for --resume: Not a dir"
    )


def test_durations() -> None:
    assert [duration(s) for s in (0, 59, 90, 7200, 47 * 3600, 10 * 86400)] == [
        *("0 s", "59 s", "2 min", "2.0 h", "47.0 h", "10 days")
    ]
    assert Foreseen("profile", "m", True, 1.0, 2.0).to_json()["stored"] is True
