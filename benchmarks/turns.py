"""Times models in processes of their own, which take turns: what `engines.py` measures with.

In one process, the threads of one runtime would spin on the cores that the next one needs. Here a process sleeps unless
it is asked for some calls, and the next is asked when the threads of the last one sleep too.

A process is started as ``python benchmarks/turns.py KIND PATH TARGET``. KIND is ``session`` (a file, in the runtime of
the target), ``eager`` or ``compiled`` (a directory of a checkpoint or an artifact, in PyTorch).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

WARM_UP = 3
# A call that takes longer than this is warm after one.
SLOW_SECONDS = 0.1
# Long enough for the threads of the process before to stop spinning.
PAUSE_SECONDS = 0.15
LEAST_ROUNDS = 12
# A turn of fewer seconds would mostly be pauses.
TURN_SECONDS = 0.1

Feed = Mapping[str, NDArray[Any]]


class Turn:
    """A process that times calls of one model when it is asked.

    Args:
        kind: see the module.
        path: of the model.
        target: whose runtime opens a file.
    """

    def __init__(self, kind: str, path: Path, target: str) -> None:
        command = [sys.executable, __file__, kind, str(path), target]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, feed: Path, calls: int) -> float:
        """Median milliseconds of some calls after a few untimed ones.

        Args:
            feed: npz file with the inputs.
            calls: how many.
        """
        to, answers = self._process.stdin, self._process.stdout
        assert to is not None and answers is not None, "both are pipes"
        to.write(json.dumps({"feed": str(feed), "calls": calls}) + "\n")
        to.flush()
        # Libraries may print lines of their own.
        for line in answers:
            if line.startswith("ms "):
                return float(line[3:])
        raise SystemExit(f"a process ended: {self._process.args!r}")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


def take_turns(turns: Sequence[Turn], feed: Path, seconds: float) -> NDArray[np.float64]:
    """Times processes in turns, in another order every round.

    Args:
        turns: the processes.
        feed: npz file with the inputs.
        seconds: of timing in all, pauses and slow first calls not counted.

    Returns:
        Median milliseconds of each turn, [rounds, processes].
    """
    # The first call compiles or makes kernels for the shape; the second tells how many fit into a turn.
    first = [(turn.ask(feed, 1), turn.ask(feed, 2))[1] for turn in turns]
    rounds = max(LEAST_ROUNDS, int(seconds / max(sum(first) / 1000, TURN_SECONDS * len(turns))))
    share = 1000 * seconds / rounds / len(turns)
    calls = [max(1, round(share / ms) - _warm_up(ms / 1000)) for ms in first]
    generator, rows = np.random.default_rng(0), np.zeros((rounds, len(turns)))
    for row in rows:
        for i in generator.permutation(len(turns)):
            row[i] = turns[i].ask(feed, calls[i])
            time.sleep(PAUSE_SECONDS)
    return rows


def work(run: Callable[[Feed], object]) -> None:
    """Answer requests on stdin until it ends.

    Args:
        run: one call of the model.
    """
    for line in sys.stdin:
        asked = json.loads(line)
        feed = dict(np.load(asked["feed"]))
        untimed = _warm_up(_seconds(run, feed)) - 1
        taken = [_seconds(run, feed) for _ in range(untimed + asked["calls"])][untimed:]
        print(f"ms {1000 * float(np.median(taken))!r}", flush=True)


def _warm_up(seconds: float) -> int:
    """Untimed calls before the others, of which one takes so many seconds."""
    return 1 if seconds > SLOW_SECONDS else WARM_UP


def _seconds(run: Callable[[Feed], object], feed: Feed) -> float:
    start = time.perf_counter()
    run(feed)
    return time.perf_counter() - start


def _session(path: Path, target: str) -> Callable[[Feed], object]:
    from compress.export.runtime import open_session
    from compress.profile.target import load_target

    return open_session(path, load_target(target)).run


def _pytorch(path: Path, compiled: bool) -> Callable[[Feed], object]:
    import torch

    from compress.core.cores import usable_cores

    torch.set_num_threads(usable_cores())
    model = _model(path)
    call = torch.compile(model, dynamic=False) if compiled else model

    def run(feed: Feed) -> object:
        with torch.inference_mode():
            return call(**{name: torch.from_numpy(values) for name, values in feed.items()})

    return run


def _model(path: Path) -> Any:
    """The model of an artifact, or of a checkpoint."""
    if (path / "plan.json").is_file():
        from compress import load

        return load(path)
    from compress.inputs.load import load_model
    from compress.options.run_config import make_config

    return load_model(make_config({"model": str(path)})).checkpoint.model


def main() -> int:
    kind, path, target = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    work(_session(path, target) if kind == "session" else _pytorch(path, kind == "compiled"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
