"""Tells paths from names on the hub, and whether the hub can be reached."""

from __future__ import annotations

import re
from pathlib import Path

from compress.data.tables import SUFFIXES
from compress.data.text_files import PACKED, SPACES


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
    try:
        socket.create_connection((url.hostname or "", url.port or (80 if url.scheme == "http" else 443)), 5).close()
    except OSError:
        return False
    return True
