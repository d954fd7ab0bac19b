"""``compress`` and ``python -m compress``."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from contextlib import suppress

from compress.core.cores import wait_politely
from compress.core.ending import end_now, end_on_signals


def _say_end(code: int) -> None:
    """Say that a signal has ended the command."""
    message = "interrupted" if code == 128 + signal.SIGINT else "terminated"
    message += "; nothing was written"
    # Past Python's own streams: the main thread may hold them.
    cursor = b"\x1b[?25h\r" if os.isatty(2) else b""
    with suppress(OSError):
        os.write(2, cursor + f"error: {message}\n".encode())
        if "--json" in sys.argv:
            os.write(1, (json.dumps({"error": message, "exit_code": code}, indent=1) + "\n").encode())


def main() -> None:
    """Run the command line and exit with its code."""
    # Libraries draw progress bars and advise on stderr; the pipeline reports for itself. Whoever wants them sets these.
    for name, value in {
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    }.items():
        os.environ.setdefault(name, value)
    wait_politely()
    # Hundreds of thousands of objects of libraries and graphs stay. Looking through them every 700 new ones took a
    # second of a run.
    gc.set_threshold(50_000, 20, 20)
    end_on_signals(_say_end)
    try:
        code = _run()
    except KeyboardInterrupt:
        # Before the command began, or while it waited for other processes.
        code = 128 + signal.SIGINT
        _say_end(code)
    except SystemExit as error:
        if error.code != 128 + signal.SIGTERM:
            raise
        code = 128 + signal.SIGTERM
        _say_end(code)
    if code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        # What an interrupted wait has left in the background is not waited for.
        end_now(code)
    # Python would look through all of them once more at the end, for a second and a half after a run.
    gc.freeze()
    sys.exit(code)


def _run() -> int:
    """Run the command, alone or as one process of several, and return its exit code."""
    from compress.cli.main import main as run_command_line
    from compress.distributed.group import meant_to_be_several, place

    where = place()
    if where is not None:
        from compress.pipeline.helper import take_part

        # At once: where a connection broke, threads of gloo may abort an interpreter that is being taken down, and the
        # launcher would see that instead of the code.
        end_now(take_part(where, sys.argv[1:], run_command_line))
    if meant_to_be_several():
        sys.stderr.write(
            "warning: accelerate launch --cpu starts one process where it has no MPI (--mpirun_hostfile): this one is "
            "alone. Several: accelerate launch --multi_gpu, which needs no GPU, or torchrun\n"
        )
    return run_command_line()


if __name__ == "__main__":
    main()
