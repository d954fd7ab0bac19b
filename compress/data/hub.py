"""Names of models and data: a path or a name on the hub, and whether the hub can be asked."""

from __future__ import annotations

import re
from pathlib import Path

from compress.data.tables import SUFFIXES


def existing(source: str) -> Path | None:
    """The path a name stands for; None where nothing is there.

    Raises:
        OSError: the place may not be looked at, or no file system takes such a name.
    """
    try:
        path = Path(source).expanduser()
    except RuntimeError:  # The home directory of an unknown user.
        return None
    # An empty name would be the current directory.
    return path if source.strip() and path.exists() else None


def looks_local(source: str) -> bool:
    """Whether a name that is not there can only be meant as a path: then no hub is asked for it."""
    if source.startswith((".", "/", "~")) or "\\" in source or source.endswith(("/", *SUFFIXES)):
        return True
    name = source.split(":", 1)[0]
    first = name.split("/", 1)[0]
    return not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or ("/" in name and Path(first).is_dir())


def hub_reachable() -> bool:
    """Whether it is worth asking the hub: without this, a mistyped path costs half a minute of retries offline."""
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
