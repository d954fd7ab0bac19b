"""`@stage`: a function of a run whose result is stored, and everything that decides whether a stored one is used.

A stage names, in one place, what its result depends on, how it is stored, and what follows what. A stored result is
used again where all of its inputs are equal. So an option that is among the inputs of a stage redoes this stage and
those that depend on it, and no other: a new budget leaves profile and calibration as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from time import perf_counter
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

from compress.artifact.manifest import versions
from compress.cache.memo import Codec, Memory, Step
from compress.core.progress import Progress
from compress.core.time_spent import STORED, TimeSpent
from compress.core.trace import recording, span

if TYPE_CHECKING:
    from compress.inputs.load import Loaded

P = ParamSpec("P")
T = TypeVar("T")
Inputs = dict[str, Any]


class Context(Protocol):
    """What a stage needs of its first argument (``Run`` has it)."""

    @property
    def loaded(self) -> Loaded:
        """Checkpoint, target and examples."""
        ...

    @property
    def stages(self) -> Stages:
        """Times stages and gives stored results."""
        ...


R = TypeVar("R", bound=Context)


@dataclass(frozen=True)
class Stage:
    """A stage whose result is stored.

    Attributes:
        name: as `compress cache` and `compress run --dry-run` show it.
        version: a number that is raised when the same inputs give another result than before.
        after: the stage before it in a run; None for the first.
        depends_on: stages whose results are among its inputs.
        libraries: packages whose version its result may depend on.
        measured: whether its result was true of the device when it was made, and may not be now.
        optional: whether there are runs without it.
    """

    name: str
    version: int
    after: str | None
    depends_on: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    measured: bool = False
    optional: bool = False

    def software(self) -> Inputs:
        """Versions of this stage, of those that it depends on, and of the libraries of all of them."""
        stages: dict[str, int] = {}
        libraries: set[str] = {"python"}
        todo = [self]
        while todo:
            one = todo.pop()
            stages[one.name] = one.version
            libraries.update(one.libraries)
            todo += [STAGES[name] for name in one.depends_on if name not in stages]
        found = versions()
        return {"stages": stages, "libraries": {name: found.get(name) for name in sorted(libraries)}}


STAGES: dict[str, Stage] = {}


def in_order() -> list[Stage]:
    """All stages, each behind the one that it comes after."""
    followers = {described.after: described for described in STAGES.values()}
    found: list[Stage] = []
    while (following := followers.get(found[-1].name if found else None)) is not None:
        found.append(following)
    return found


def stage(
    described: Stage,
    *,
    inputs: Callable[Concatenate[R, P], Inputs],
    codec: Codec[T] | Callable[Concatenate[R, P], Codec[T]],
    of: Callable[Concatenate[R, P], str] | None = None,
) -> Callable[[Callable[Concatenate[R, P], T]], Callable[Concatenate[R, P], T]]:
    """Store what a function of a run returns, and use what an earlier run stored (``--resume``).

    Args:
        described: name, version and place of the stage.
        inputs: what the result depends on, as plain JSON types, from the function's arguments.
        codec: how the result is stored; a function of the arguments where that depends on them.
        of: what the result is of, for people, beside the model's name; None adds nothing.

    Returns:
        A decorator for the function that makes the result.
    """
    STAGES[described.name] = described

    def decorate(make: Callable[Concatenate[R, P], T]) -> Callable[Concatenate[R, P], T]:
        def step(run: R, *args: P.args, **kwargs: P.kwargs) -> Step[T]:
            label = run.loaded.checkpoint.name
            detail = of(run, *args, **kwargs) if of is not None else ""
            return Step(
                described.name,
                {**inputs(run, *args, **kwargs), "software": described.software()},
                codec if isinstance(codec, Codec) else codec(run, *args, **kwargs),
                f"{label}, {detail}" if detail else label,
                described.measured,
            )

        @wraps(make)
        def cached(run: R, /, *args: P.args, **kwargs: P.kwargs) -> T:
            return run.stages.result(lambda: step(run, *args, **kwargs), lambda: make(run, *args, **kwargs))

        return cached

    return decorate


class Stages:
    """Times the stages of a run as it reports them, and gives their stored results.

    Args:
        progress: told about stages.
        memory: results of this and of earlier runs; None stores nothing.

    Attributes:
        seconds: per stage, in order; a stage that ran twice has the sum.
        spent: the same with the parts of the stages.
    """

    def __init__(self, progress: Progress, memory: Memory | None = None) -> None:
        self._progress, self.memory = progress, memory
        self.seconds: dict[str, float] = {}
        self.spent = TimeSpent()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block as a stage of this name."""
        start = perf_counter()
        with self._progress.stage(name), recording() as spans, span(name):
            yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + perf_counter() - start, 3)
        self.spent.add(spans)

    def info(self, text: str) -> None:
        """Report one line."""
        self._progress.info(text)

    def result(self, step: Callable[[], Step[T]], make: Callable[[], T]) -> T:
        """The result of a step: stored, or made now.

        Args:
            step: describes the result; not called where nothing is stored.
            make: makes it.
        """
        if self.memory is None:
            return make()
        found = step()
        with span(found.name, of=found.label) as notes:
            before = len(self.memory.met)
            result = self.memory.result(found, make, self.info)
            # The first that was met is this one; others were met while it was made.
            entry = self.memory.met[before][1]
            if entry is not None:
                notes[STORED] = entry.seconds
            return result
