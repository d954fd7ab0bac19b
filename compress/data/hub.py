"""Tells paths from names on the hub, whether the hub can be reached, and waits for it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from compress.core.waiting import in_background
from compress.data.tables import SUFFIXES
from compress.data.text_files import PACKED, SPACES

Result = TypeVar("Result")

# The hub, or the proxy or resolver on the way to it, answers within so many seconds, or counts as absent.
ANSWER_SECONDS = 5.0


def existing_path(source: str) -> Path | None:
    """Returns the path that a name stands for; None where no such file or directory exists.

    Raises:
        OSError: access is denied, or the name is not valid for the file system.
    """
    try:
        path = Path(source).expanduser()
    except RuntimeError:  # The home directory of an unknown user.
        return None
    # An empty name would be the current directory.
    return path if source.strip(SPACES) and path.exists() else None


def looks_like_path(source: str) -> bool:
    """Whether a name can only be meant as a path: the hub is then not asked for it."""
    if source.startswith((".", "/", "~")) or "\\" in source or source.endswith(("/", *SUFFIXES, *PACKED)):
        return True
    name = source.split(":", 1)[0]
    first = name.split("/", 1)[0]
    return not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or ("/" in name and Path(first).is_dir())


def hub_reachable() -> bool:
    """Whether the hub answers; without this check a mistyped path costs half a minute of retries when offline."""
    import socket
    from urllib.parse import urlparse
    from urllib.request import getproxies

    from huggingface_hub import constants

    # Offline mode answers from the cache at once; behind a proxy the name need not resolve here.
    if constants.HF_HUB_OFFLINE or getproxies():
        return True
    url = urlparse(constants.ENDPOINT)
    address = url.hostname or "", url.port or (80 if url.scheme == "http" else 443)
    try:
        # The time limit of a connection does not hold for the look-up of its name.
        in_background(
            lambda: socket.create_connection(address, ANSWER_SECONDS).close(),
            f"waiting for the hub ({constants.ENDPOINT}) to answer; without a network set HF_HUB_OFFLINE=1",
            limit=ANSWER_SECONDS,
        )
    except OSError:  # TimeoutError is one
        return False
    return True


def from_hub(name: str, work: Callable[[], Result]) -> Result:
    """Return what ``work`` gets from the hub; a long wait is said, and signals end it.

    The libraries of the hub limit the wait for each answer themselves.

    Args:
        name: of the model or the data set.
        work: asks the hub.
    """
    from huggingface_hub import constants

    return in_background(
        work,
        f"waiting for '{name}' from the hub ({constants.ENDPOINT}); Ctrl-C ends it, and the next run continues the "
        "download",
    )
