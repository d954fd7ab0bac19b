"""Times files against each other in a process that does nothing else, as a deployment has it.

In a process that has trained a model, files run slower from then on, and those opened late more than those opened
early: after 300 steps a small int8 file took 0.95 to 1.02 ms instead of 0.89 ms, and its speed-up over a dense file
opened before the steps was 6.5 instead of 6.9 (2 cores of a Xeon; no committed command repeats this). A new process
beside it had the old figures. So a search that trusted such timings would prune too much.

The process reads a question per line and writes an answer per line, both JSON. It ends when its input ends, so it does
not outlive the process that asks.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess  # nosec B404
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter

from compress.core import errors
from compress.core.errors import CompressError, ExportError
from compress.export.measure import Feed, LatencyComparison, compare_latency
from compress.export.runtime import open_session
from compress.profile.target import Target

if TYPE_CHECKING:
    from compress.export.session import Session

# Runtimes that are timed like this. On GPUs a second process would need the memory a second time.
RUNTIMES = ("onnxruntime-cpu", "openvino")
_COMPARISON = TypeAdapter(LatencyComparison)


class Apart:
    """A process that times files. It starts with the first question.

    Args:
        target: runs the files; its runtime is one of ``RUNTIMES``.
        scratch: directory for files that are given as bytes, and for batches.
    """

    def __init__(self, target: Target, scratch: Path) -> None:
        self._target, self._scratch = target, scratch
        self._process: subprocess.Popen[str] | None = None

    def compare(
        self,
        dense: Path | bytes,
        compressed: Path | bytes,
        feed: Feed,
        seconds: float,
        **more: Any,
    ) -> LatencyComparison:
        """``compare_latency`` of two files. The first stays open for later comparisons if it is given as a path.

        Args:
            dense: the baseline: a file that does not change, or its bytes.
            compressed: the compressed model's.
            feed: one batch of the deployment's size and length, arrays by input name.
            seconds: approximate time to spend.
            **more: further arguments of ``compare_latency``.

        Raises:
            TargetError: the runtime is not installed.
            ExportError: a file cannot be loaded or run, or the process ended.
        """
        batch = self._scratch / "timed-batch.npz"
        np.savez(batch, **feed)  # type: ignore[arg-type]
        answer = self._ask(
            {
                "target": self._target.model_dump(mode="json"),
                "dense": self._at(dense, "timed-dense"),
                "compressed": self._at(compressed, "timed-compressed"),
                "feed": str(batch),
                "options": {"seconds": seconds, **more},
            }
        )
        if "error" in answer:
            kind: type[CompressError] = getattr(errors, answer["kind"], ExportError)
            raise kind(answer["error"])
        return _COMPARISON.validate_python(answer["comparison"])

    def _at(self, model: Path | bytes, name: str) -> dict[str, Any]:
        """Where the process finds a model, and whether it loads the file or the bytes in it."""
        if isinstance(model, Path):
            return {"path": str(model.resolve()), "bytes": False}
        path = self._scratch / name
        path.write_bytes(model)
        return {"path": str(path.resolve()), "bytes": True}

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        if self._process is None:
            command = [sys.executable, "-m", "compress.export.apart"]
            self._process = subprocess.Popen(  # nosec B603
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
            )
        assert self._process.stdin is not None and self._process.stdout is not None
        line = ""
        with suppress(BrokenPipeError):  # it has ended
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            ended = self._process.wait()
            self.close()
            raise ExportError(
                f"the process that times files ended unasked, with {ended}"
                + (", as it does where memory is short" if ended == -signal.SIGKILL else "")
                + "; its messages are above"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is None:
            return
        # It may be in the middle of a comparison that nobody waits for any more, and has nothing to lose.
        process.kill()
        process.wait()
        assert process.stdin is not None and process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()


class _Timer:
    """Answers questions, in the process apart."""

    def __init__(self) -> None:
        self._kept: dict[str, Session] = {}

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """The comparison, or what went wrong."""
        target = Target.model_validate_json(json.dumps(question["target"]))
        with np.load(question["feed"]) as file:
            feed = {name: file[name] for name in file.files}
        try:
            first, second = question["dense"], question["compressed"]
            with self._opened(first, target) as dense, self._opened(second, target) as compressed:
                if not first["bytes"]:
                    self._kept[first["path"]] = dense
                return {"comparison": asdict(compare_latency(dense, compressed, feed, **question["options"]))}
        except CompressError as error:
            return {"error": str(error), "kind": type(error).__name__}

    @contextmanager
    def _opened(self, model: dict[str, Any], target: Target) -> Iterator[Session]:
        """A session of a model, closed at the end unless it is kept."""
        path = Path(model["path"])
        session = self._kept.get(str(path)) or open_session(path.read_bytes() if model["bytes"] else path, target)
        try:
            yield session
        finally:
            if session not in self._kept.values():
                session.close()


def main() -> None:
    """Answer questions until the input ends."""
    # Who interrupts the command ends this process by the end of its input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What libraries print must not get among the answers.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        timer = _Timer()
        for line in sys.stdin:
            answers.write(json.dumps(timer.answer(json.loads(line))) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
