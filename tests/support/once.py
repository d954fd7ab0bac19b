"""What a session makes once, whichever of its processes needs it first."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


class Once:
    """Folders that the workers of one session share. Read only: tests that change one copy it.

    Args:
        root: where they lie; the same for every worker.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, name: str, make: Callable[[Path], object]) -> Path:
        """The folder of this name, made if no worker has made it yet.

        Args:
            name: says all that its content depends on.
            make: fills the empty folder that it is given; what it returns is not used.
        """
        folder, done = self.root / name, self.root / f"{name}.done"
        with FileLock(self.root / f"{name}.lock"):
            if not done.exists():
                # Left by a worker that failed halfway.
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                make(folder)
                done.touch()
        return folder
