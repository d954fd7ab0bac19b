"""Timing exported files here and now, in visits (``gate/decision.py`` says why)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.core.statistics import Interval
from compress.gate.decision import LOOKS, VISITS, over_visits
from compress.profile.timing import BURST, PRIME, Clock, Schedule, relative_times, sample_calls

if TYPE_CHECKING:
    from compress.core.progress import Progress
    from compress.export.session import Session
    from compress.profile.target import Target

# Per visit and model; a visit has at least so many rounds, however long a call takes.
VISIT_SECONDS = 0.75
_ROUNDS = 15
_WARMUP = 3
# Ids below are special tokens in the vocabularies of all families.
_FIRST_ID = 10


@dataclass(frozen=True)
class Timings:
    """What visits found.

    Attributes:
        ms: undisturbed median milliseconds of one call, [visits, files].
        ratios: latency of each file over the last file's, [visits, files].
    """

    ms: NDArray[np.float64]
    ratios: NDArray[np.float64]

    @property
    def latency_ms(self) -> Interval:
        """Of the first file."""
        return over_visits(self.ms[:, 0])

    @property
    def ratio(self) -> Interval:
        """Latency of the first file over the last one's."""
        return over_visits(self.ratios[:, 0])


def time_files(
    open_file: Callable[[Path], Session],
    files: Sequence[Path],
    feed: Callable[[Session], Mapping[str, NDArray[Any]]],
    settled: Callable[[Timings], bool],
    progress: Progress,
    clock: Clock | None = None,
) -> Timings:
    """Time files against each other until what is asked of them is settled, or there were enough visits.

    Args:
        open_file: loads one.
        files: exported models.
        feed: one batch of the deployment for a session.
        settled: whether the timings so far answer everything.
        progress: told of each look.
        clock: None is the system's.
    """
    ms: list[NDArray[np.float64]] = []
    ratios: list[NDArray[np.float64]] = []
    for look in range(1, LOOKS + 1):
        for _ in range(VISITS):
            with ExitStack() as opened:
                # Who is loaded first has other memory: every other visit loads them the other way round.
                order = range(len(files)) if len(ms) % 2 == 0 else range(len(files) - 1, -1, -1)
                sessions = {place: opened.enter_context(closing(open_file(files[place]))) for place in order}
                calls = [partial(sessions[i].run, feed(sessions[i])) for i in range(len(files))]
                schedule = Schedule(_ROUNDS, VISIT_SECONDS * len(files), _WARMUP, PRIME, BURST)
                samples = sample_calls(calls, schedule, seed=len(ms), clock=clock)
            ms.append(np.median(samples.undisturbed_ms, axis=0))
            ratios.append(relative_times(samples, reference=len(files) - 1).value)
        timings = Timings(np.stack(ms), np.stack(ratios))
        found = timings.latency_ms
        progress.info(f"{found.value:.3f} ms ({found.low:.3f} to {found.high:.3f}) after {look * VISITS} loadings")
        if settled(timings):
            break
    return timings


def deployment_feed(session: Session, batch_size: int, seq_len: int, vocabulary: int) -> dict[str, NDArray[np.int64]]:
    """A batch of the deployment's size for whatever inputs a session has: every position holds a token.

    Args:
        session: names the inputs.
        batch_size: examples.
        seq_len: tokens of each.
        vocabulary: number of token ids.
    """
    ids = np.random.default_rng(0).integers(min(_FIRST_ID, vocabulary - 1), vocabulary, size=(batch_size, seq_len))
    known = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    return {name: known.get(name, np.zeros_like(ids)).astype(np.int64) for name in session.input_names}


def opener(target: Target) -> Callable[[Path], Session]:
    """Opens files as a target runs them.

    Raises:
        TargetError: the target is not this machine, or its runtime is missing.
    """
    from compress.export.runtime import open_session, refuse_absent, require_runtime

    refuse_absent(target)
    require_runtime(target)
    return lambda file: open_session(file, target)
