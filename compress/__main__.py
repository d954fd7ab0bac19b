"""``compress`` and ``python -m compress``."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from types import FrameType


def _terminated(_signal: int, _frame: FrameType | None) -> None:
    # As an exception, so that a staged artifact is removed on the way out; the default action would leave it.
    raise SystemExit(128 + signal.SIGTERM)


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
    signal.signal(signal.SIGTERM, _terminated)

    from compress.cli.main import main as run_command_line
    from compress.distributed.group import meant_to_be_several, place

    where = place()
    if where is not None:
        from compress.pipeline.helper import take_part

        code = take_part(where, sys.argv[1:], run_command_line)
        # At once: where a connection broke, threads of gloo may abort an interpreter that is being taken down, and the
        # launcher would see that instead of the code.
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    if meant_to_be_several():
        sys.stderr.write(
            "warning: accelerate launch --cpu starts one process where it has no MPI (--mpirun_hostfile): this one is "
            "alone. Several: accelerate launch --multi_gpu, which needs no GPU, or torchrun\n"
        )
    sys.exit(run_command_line())


if __name__ == "__main__":
    main()
