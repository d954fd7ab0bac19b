"""Laws of an end on signals: it comes whatever the main thread does, with the right code, and leaves nothing half."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compress.core.ending import removed_at_end, undone_at_end
from support.processes import REPOSITORY

# What the main thread does when the signal comes. A mutex of libc, locked twice, is native code that never returns.
BUSY = {
    "python": "while True: pass",
    "sleep": "import time; time.sleep(600)",
    "native": "import ctypes; c = ctypes.CDLL(None); m = ctypes.create_string_buffer(64)\n"
    "    c.pthread_mutex_lock(m); c.pthread_mutex_lock(m)",
    "deaf": "import time\n    while True:\n        try: time.sleep(600)\n        except BaseException: pass",
    "pool": "import time; from concurrent.futures import ThreadPoolExecutor\n"
    "    with ThreadPoolExecutor(1) as p: p.submit(time.sleep, 600).result()",
}
SCRIPT = """
import sys, types, tempfile
from pathlib import Path
from compress.artifact.directory import scratch_beside, staged
from compress.core import ending
ending.CLEAN_UP_SECONDS = 0.5
def command(*_):
    with staged(Path("new") / "parent" / "out") as directory, scratch_beside(directory), \\
         tempfile.TemporaryDirectory(dir="."):
        (directory / "half").write_text("x")
        print("started", file=sys.stderr, flush=True)
        work()
def work():
    BUSY
import compress.cli.main
sys.modules["compress.cli.main"].main = command
sys.argv = ["compress", "run"]
from compress.__main__ import main
main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=str)
@pytest.mark.parametrize("busy", BUSY)
def test_a_signal_ends_the_command_and_leaves_nothing(
    busy: str, number: signal.Signals, code: int, tmp_path: Path
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT.replace("BUSY", BUSY[busy])],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    ) as process:
        assert process.stderr is not None
        try:
            assert process.stderr.readline() == "started\n"
            assert list(tmp_path.iterdir())
            time.sleep(0.1)
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == code
    assert re.fullmatch(r"\n?error: (interrupted|terminated); nothing was written\n", err) and out == ""
    assert not list(tmp_path.iterdir())


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    script = (
        "import os, signal, time; from compress.core.ending import end_on_signals\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN); end_on_signals(print)\n"
        "os.kill(os.getpid(), signal.SIGINT); time.sleep(1.5); print('alive')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "alive\n")


def test_blocks_that_end_by_themselves_have_nothing_to_undo(tmp_path: Path) -> None:
    from compress.core import ending

    calls: list[int] = []
    with undone_at_end(lambda: calls.append(1)), removed_at_end(tmp_path / "absent"):
        assert len(ending._undo) == 2
    assert not ending._undo and not calls
