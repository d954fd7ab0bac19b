"""Opens the forms of a number format on the device, to be timed; those that fail or answer otherwise are left out.

Forms for GPUs are chosen among kernels that no test machine has. So each is run here before it is timed, beside the
default form and on inputs with padding, which is what a kernel that misreads its mask gets wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import ExportError
from compress.export.runtime import open_session
from compress.models.encoder import MASK

if TYPE_CHECKING:
    from compress.core.plan import Widths
    from compress.export.lowering import Engine
    from compress.export.session import Session
    from compress.stages.context import Run
    from compress.stages.dense_model import DenseModel

Feed = Mapping[str, NDArray[Any]]
# Largest difference of a form's answers from the default form's, relative to the largest of these. Rounding to fp16
# makes a tenth of it; a mask that is not read makes several times as much.
ALLOWED = 0.03
# Answers below it are compared as if they were as large: fp16 rounds what they are sums of.
SMALL = 0.1


def open_forms(run: Run, dense: DenseModel, widths: Widths, offered: Sequence[Engine]) -> dict[str, Session]:
    """Sessions of the forms of one number format.

    On a GPU a form is left out if it is the same file as an earlier one, cannot be run, or answers otherwise than the
    first; the last two are said.

    Args:
        run: gives the target, and is told what is left out.
        dense: builds the forms.
        widths: of the structure to run.
        offered: the forms, the default first.

    Returns:
        Sessions by name of the form, in order; the caller closes them.
    """
    checked = run.loaded.target.runtime == "onnxruntime-cuda"
    sessions: dict[str, Session] = {}
    with ExitStack() as opened:
        for engine, file in _files(dense, widths, offered, distinct=checked):
            session = _opened(run, engine, file, required=not (checked and sessions))
            if session is None:
                continue
            opened.callback(session.close)
            sessions[engine.name] = session
        if checked:
            sessions = _alike(run, sessions, with_padding(dense.timing_feed))
        opened.pop_all()
    return sessions


def _files(
    dense: DenseModel, widths: Widths, offered: Sequence[Engine], *, distinct: bool
) -> Iterator[tuple[Engine, bytes]]:
    """Yields each form with its file."""
    seen: set[bytes] = set()
    for engine in offered:
        file = dense.build(widths, engine)
        if not distinct or file not in seen:
            yield engine, file
        seen.add(file)


def _opened(run: Run, engine: Engine, file: bytes, *, required: bool) -> Session | None:
    try:
        return open_session(file, run.loaded.target)
    except ExportError as error:
        if required:
            raise
        run.info(f"{engine.name} is left out: it does not load here: {error}")
        return None


def _alike(run: Run, sessions: Mapping[str, Session], feed: Feed) -> dict[str, Session]:
    """The sessions that answer as the first does; others are closed and said."""
    default, *_ = sessions
    expected = sessions[default].run(feed)
    kept = {default: sessions[default]}
    for name, session in list(sessions.items())[1:]:
        try:
            off = difference(session.run(feed), expected)
            why = f"on padded inputs its answers differ by {off:.1%} from those of {default}"
        except ExportError as error:
            off, why = float("inf"), f"it does not run here: {error}"
        if off <= ALLOWED:
            kept[name] = session
        else:
            session.close()
            run.info(f"{name} is left out: {why}")
    return kept


def with_padding(feed: Feed) -> dict[str, NDArray[Any]]:
    """The same batch with the last third of every example masked, and less in every second one."""
    padded = dict(feed)
    if MASK in feed:
        mask = feed[MASK].copy()
        length = mask.shape[1]
        mask[:, max(1, length - length // 3) :] = 0
        mask[1::2, max(1, length // 3) :] = 0
        padded[MASK] = mask
    return padded


def difference(answers: NDArray[Any], expected: NDArray[Any]) -> float:
    """Largest difference of answers, relative to the largest expected one.

    Args:
        answers: of any shape.
        expected: what they should be.

    Returns:
        The ratio; infinite for other shapes, and for answers that are not finite.
    """
    if answers.shape != expected.shape or not np.isfinite(answers).all():
        return float("inf")
    return float(np.abs(answers - expected).max() / max(float(np.abs(expected).max()), SMALL))
