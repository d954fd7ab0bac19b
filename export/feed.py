"""What a call of an exported model is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from compress.errors import ExportError


def inputs_of(feed: Mapping[str, NDArray[Any]], names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The arrays that a model takes; what else is in the feed is left out.

    Raises:
        ExportError: one is missing.
    """
    missing = [name for name in names if name not in feed]
    if missing:
        raise ExportError(
            f"the model needs input {', '.join(map(repr, missing))}, the feed has "
            f"{', '.join(sorted(feed)) or 'nothing'}; tokenise with the artifact's own tokenizer"
        )
    return {name: feed[name] for name in names}
