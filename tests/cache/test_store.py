"""Laws of the store: what is found is what was kept; no damage goes unnoticed; it stays within its limit."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.cache import store as stores
from compress.cache.entry import RECORD, Damaged, Entry, canonical, digest_of, key_of
from compress.cache.store import Store, cache_directory, cache_limit_bytes
from compress.core.errors import ConfigError
from compress.core.locks import only_one

INPUTS = {"model": "a" * 64, "seed": 0, "share": 0.968}
FILES = {"result.json": b'{"kept": [1, 2, 3]}', "files/model.bin": bytes(range(256)) * 5}


def write(files: dict[str, bytes] = FILES) -> Callable[[Path], None]:
    def into(folder: Path) -> None:
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)

    return into


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


@pytest.fixture
def entry(store: Store) -> Entry:
    assert store.keep("profile", INPUTS, write(), label="tiny, fp32", seconds=12.5) is None
    found = store.look("profile", INPUTS)
    assert found is not None
    return found


def test_what_is_found_is_what_was_kept(store: Store, entry: Entry, tmp_path: Path) -> None:
    found = store.find("profile", INPUTS, tmp_path / "out")
    assert found is not None
    assert (found.stage, found.label, found.seconds, found.damage) == ("profile", "tiny, fp32", 12.5, None)
    assert {name: (tmp_path / "out" / name).read_bytes() for name in FILES} == FILES
    assert store.find("profile", {**INPUTS, "seed": 1}, tmp_path / "other") is None
    assert store.find("calibrate", INPUTS, tmp_path / "other") is None
    assert [e.key for e in store.entries()] == [entry.key]
    # Nothing of the work is left beside it.
    assert sorted(p.name for p in store.root.iterdir()) == [".lock", "profile"]


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.booleans() | st.text(max_size=5), max_size=5))
def test_equal_inputs_have_equal_keys_and_others_have_others(inputs: dict[str, Any]) -> None:
    turned = dict(reversed(list(inputs.items())))
    assert key_of("profile", inputs) == key_of("profile", turned)
    assert key_of("profile", inputs) != key_of("check", inputs)
    assert key_of("profile", inputs) != key_of("profile", {**inputs, "one more": 1})


def test_the_same_inputs_replace_what_was_there(store: Store, entry: Entry, tmp_path: Path) -> None:
    assert store.keep("profile", INPUTS, write({"result.json": b"newer"})) is None
    store.find("profile", INPUTS, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["result.json"]
    assert len(store.entries()) == 1


def damages() -> list[Any]:
    """Every file cut off, emptied, taken away, and with a bit changed at several places."""
    cases = []
    for name in (*FILES, RECORD):
        for how in ("cut off", "empty", "missing", "flip first", "flip middle", "flip last"):
            cases.append(pytest.param(name, how, id=f"{name}-{how}"))
    return cases


def damage(file: Path, how: str) -> None:
    content = bytearray(file.read_bytes())
    if how == "missing":
        file.unlink()
        return
    if how.startswith("flip"):
        place = {"first": 0, "middle": len(content) // 2, "last": len(content) - 1}[how.split()[1]]
        content[place] ^= 0x04
    file.write_bytes(content if how.startswith("flip") else content[: 0 if how == "empty" else -3])


@pytest.mark.parametrize(("name", "how"), damages())
def test_damage_is_named_and_what_is_damaged_is_never_used(
    store: Store, entry: Entry, tmp_path: Path, name: str, how: str
) -> None:
    damage(entry.path / name, how)
    with pytest.raises(Damaged) as caught:
        store.find("profile", INPUTS, tmp_path / "out")
    assert Path(name).name in str(caught.value) or "record" in str(caught.value) or "format" in str(caught.value)
    if name == RECORD:
        # Seen without reading the files.
        assert store.entries()[0].damage is not None
    # It is made again in its place.
    assert store.keep("profile", INPUTS, write()) is None
    assert store.find("profile", INPUTS, tmp_path / "again") is not None


def rewritten(entry: Entry, change: Callable[[dict[str, Any]], None]) -> None:
    """A record that says something else, and whose own checksum is right."""
    document = json.loads((entry.path / RECORD).read_bytes())
    change(document)
    document["sha256"] = digest_of(document["entry"])
    (entry.path / RECORD).write_bytes(canonical(document))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format=2), "format 2"),
        (lambda d: d["entry"].update(stage="check"), "other inputs"),
        (lambda d: d["entry"]["inputs"].update(seed=7), "other inputs"),
        (lambda d: d["entry"].pop("files"), "lacks"),
        (lambda d: d["entry"].update(files={"../../secret": {"sha256": "", "size_bytes": 0}}), "leads out"),
        (lambda d: d["entry"].update(files={"/etc/passwd": {"sha256": "", "size_bytes": 0}}), "leads out"),
        (lambda d: d["entry"].update(files=[1]), "lacks"),
    ],
)
def test_a_record_that_says_something_else_is_refused(
    store: Store, entry: Entry, tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    rewritten(entry, change)
    with pytest.raises(Damaged, match=message):
        store.find("profile", INPUTS, tmp_path / "out")


def test_links_are_not_followed_out_of_an_entry(store: Store, entry: Entry, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(FILES["result.json"])
    (entry.path / "result.json").unlink()
    (entry.path / "result.json").symlink_to(outside)
    with pytest.raises(Damaged, match="leads out"):
        store.find("profile", INPUTS, tmp_path / "out")


def test_the_total_stays_within_the_limit_and_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache", limit_bytes=5000)
    for number in range(4):
        assert store.keep("check", {"number": number}, write({"a": bytes(1000)})) is None
    for number, entry in enumerate(sorted(store.entries(), key=lambda e: e.used)):
        os.utime(entry.path / RECORD, (1000 + number, 1000 + number))
    oldest = store.entries()[-1]
    # Using it makes it the newest.
    number = json.loads((oldest.path / RECORD).read_bytes())["entry"]["inputs"]["number"]
    assert store.find("check", {"number": number}, tmp_path / "out") is not None
    second = store.entries()[-1]
    store.keep("check", {"number": 9}, write({"a": bytes(1000)}))
    keys = {entry.key for entry in store.entries()}
    assert oldest.key in keys and second.key not in keys
    assert sum(entry.size_bytes for entry in store.entries()) <= 5000
    assert "limit" in (store.keep("check", {"number": 10}, write({"a": bytes(9000)})) or "")
    assert {entry.key for entry in store.entries()} == keys


def test_a_limit_of_nothing_keeps_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache", limit_bytes=0)
    assert store.keep("check", INPUTS, write()) is None
    assert not store.root.exists() and store.entries() == []


def test_cleaning_goes_by_last_use(store: Store, entry: Entry) -> None:
    store.keep("check", INPUTS, write())
    old = os.stat(entry.path / RECORD).st_mtime - 10 * 86400
    os.utime(entry.path / RECORD, (old, old))
    assert store.clean(11) == []
    assert [e.stage for e in store.clean(9)] == ["profile"]
    assert [e.stage for e in store.clean()] == ["check"]
    assert store.entries() == [] and store.clean() == []


def test_what_a_failed_writer_began_is_no_entry_and_goes(store: Store) -> None:
    def fails(folder: Path) -> None:
        (folder / "half").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.keep("profile", INPUTS, fails)
    assert store.entries() == [] and [p.name for p in store.root.iterdir()] == [".lock"]
    # A killed one leaves both; the next writer finds its lock free.
    (store.root / ".partial-0123").mkdir()
    (store.root / ".partial-0123" / "half").write_bytes(b"half")
    (store.root / ".partial-0123.lock").write_text("{}")
    (store.root / ".trash-0123").mkdir()
    store.keep("profile", INPUTS, write())
    assert sorted(p.name for p in store.root.iterdir()) == [".lock", "profile"]


def test_writers_and_readers_do_not_disturb_one_another(store: Store, tmp_path: Path) -> None:
    contents = [bytes([number]) * 20_000 for number in range(4)]
    wrong: list[Any] = []

    def work(number: int) -> None:
        for turn in range(12):
            reason = store.keep("check", INPUTS, write({"a": contents[number]}))
            if reason is not None:
                wrong.append(reason)
            out = tmp_path / f"{number}-{turn}"
            try:
                if store.find("check", INPUTS, out) is not None and (out / "a").read_bytes() not in contents:
                    wrong.append("mixed")
            except Damaged as error:
                # Replaced between two of its files: found out, and made again by who reads it.
                if "missing" not in str(error) and "altered" not in str(error):
                    wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert store.find("check", INPUTS, tmp_path / "last") is not None


def test_ages_are_never_negative_whatever_the_clock_does(
    store: Store, entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: 0.0)
    for found in store.entries():
        assert found.age_seconds() == found.idle_seconds() == 0.0
        assert found.to_json()["age_seconds"] == 0
    assert store.clean(older_than_days=1) == []


def test_a_holder_that_hangs_is_named_and_costs_no_result(
    store: Store, entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("compress.core.waiting.SAY_AFTER", 0.05)
    monkeypatch.setattr(stores, "LOCK_SECONDS_AGAIN", 0.01)
    store._lock_seconds = 0.3
    with only_one(store.root / ".lock", keep=True):
        for _ in range(2):
            reason = store.keep("profile", {**INPUTS, "seed": 1}, write())
            assert reason is not None and f"process {os.getpid()} on " in reason and "if it hangs, end it" in reason
        with pytest.raises(OSError, match="has kept its lock for more than"):
            store.clean()
        assert store.find("profile", INPUTS, tmp_path / "read") is not None
    # Said once, not for every result.
    assert len(re.findall("waiting for the cache '.*', for at most 0.3 s: process", capsys.readouterr().err)) == 1
    assert store.keep("profile", {**INPUTS, "seed": 1}, write()) is None


def test_a_place_that_cannot_be_written_to_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = Store(tmp_path / "file" / "cache")
    assert "Not a directory" in (store.keep("profile", INPUTS, write()) or "")
    assert store.find("profile", INPUTS, tmp_path / "out") is None and store.entries() == []


def test_a_nearly_full_disk_is_left_alone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "LEAST_FREE_BYTES", 2**70)
    assert "MB are free" in (store.keep("profile", INPUTS, write()) or "")
    assert store.entries() == []


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "own"))
    assert cache_directory() == tmp_path / "own"
    monkeypatch.delenv("COMPRESS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "compress"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory() == tmp_path / ".cache" / "compress"


@pytest.mark.parametrize("text", ["much", "-1", "nan", "inf"])
def test_a_limit_that_is_none_is_said(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("COMPRESS_CACHE_GB", text)
    with pytest.raises(ConfigError, match="COMPRESS_CACHE_GB"):
        cache_limit_bytes()
    monkeypatch.setenv("COMPRESS_CACHE_GB", "2.5")
    assert cache_limit_bytes() == 2_500_000_000
