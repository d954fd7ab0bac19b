"""Runs of the pipeline in processes of their own that start at once: this one has imported everything and forks them.

Read by ``tests/e2e/test_faults.py``. It computes in one thread, so that no thread pool is lost in a fork. Commands are
lines of JSON on stdin, answers lines of JSON on stdout: ``{"run": {...}}`` gives ``{"pid": n}``, ``{"wait": n}`` gives
``{"status": n}`` once that process has ended.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import compress.pipeline.dry_run
import compress.pruning.removal
import compress.reconstruction.closed_form
import compress.reconstruction.joint
import compress.stages.finish
import compress.stages.prune
import compress.stages.validate
import compress.stages.write
from compress import cli
from compress.options.effort import EFFORT
from compress.stages import present_device as device
from support.exporter import remember_operators


def run(command: dict[str, Any], said: int) -> int:
    """One run, in the child: ``arguments`` of the command line, ``cache``, and a file for what it says."""
    import torch

    os.dup2(said, 1)
    os.dup2(said, 2)
    torch.set_num_threads(1)
    os.environ["COMPRESS_CACHE"] = command["cache"]
    os.environ.update(command.get("environment", {}))
    # What is timed here is never asserted on, so it is timed briefly.
    device.EFFORT = {name: replace(effort, profile_seconds=0.5) for name, effort in EFFORT.items()}  # type: ignore
    # And here: the start of another process would be a fifth of a run.
    device.TIMED_APART = ()
    device.CHECK_SECONDS = 0.05
    device.FORM_SECONDS = 0.02
    compress.stages.validate.MEASURE_SECONDS = (0.05,)  # type: ignore[assignment]
    verb, *rest = command["arguments"]
    # Random models are at chance.
    return cli.main([verb, *(["--allow-chance"] if verb in ("run", "plan", "sweep") else []), *rest])


def warm_up() -> None:
    """The exporter imports half of itself with the first export."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        torch.onnx.export(
            torch.nn.Linear(2, 2), (torch.zeros(1, 2),), f"{folder}/model.onnx", dynamo=True, verbose=False
        )
    remember_operators()


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    warm_up()
    for line in sys.stdin:
        command = json.loads(line)
        if "run" in command:
            path = Path(command["run"]["said"])
            pid = os.fork()
            if pid == 0:
                code = 70
                try:
                    code = run(command["run"], os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
                    sys.stdout.flush()
                    sys.stderr.flush()
                finally:
                    os._exit(code)
            answer: dict[str, Any] = {"pid": pid}
        else:
            _, status = os.waitpid(command["wait"], 0)
            answer = {"status": os.waitstatus_to_exitcode(status)}
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
