"""Waiting for the hub: bounded where it only has to answer, said where it takes long."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import pytest

from compress.data import hub


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://hub.example")
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr("compress.core.waiting.SAY_AFTER", 0.05)


@pytest.mark.usefixtures("online")
def test_a_name_that_is_looked_up_for_ever_counts_as_no_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forever = threading.Event()
    monkeypatch.setattr(socket, "create_connection", lambda *_: forever.wait())
    monkeypatch.setattr(hub, "ANSWER_SECONDS", 0.3)
    assert not hub.hub_reachable()
    forever.set()
    assert capsys.readouterr().err == (
        "waiting for the hub (https://hub.example) to answer; without a network set HF_HUB_OFFLINE=1\n"
    )


@pytest.mark.usefixtures("online")
def test_a_hub_that_answers_or_refuses_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Connection:
        def close(self) -> None:
            pass

    def refuse(*_: Any) -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr("compress.core.waiting.SAY_AFTER", 60)
    monkeypatch.setattr(socket, "create_connection", lambda *_: Connection())
    assert hub.hub_reachable()
    monkeypatch.setattr(socket, "create_connection", refuse)
    assert not hub.hub_reachable()
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("online")
def test_a_long_download_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    def slow() -> int:
        time.sleep(0.5)
        return 7

    assert hub.from_hub("a/model", slow) == 7
    said = capsys.readouterr().err
    assert said.startswith("waiting for 'a/model' from the hub (https://hub.example); Ctrl-C ends it")
    assert len(said.splitlines()) == 1
