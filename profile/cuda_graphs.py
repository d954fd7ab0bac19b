"""Shapes of calls that a target's CUDA graphs are captured for (``[cuda_graphs]`` in a target's file)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from compress.core.errors import TargetError

Sizes = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False)]
# Each graph has inputs and outputs of its own, and takes seconds to capture.
MOST_GRAPHS = 64


class CudaGraphs(BaseModel):
    """Calls that run as a CUDA graph: every batch size with every length; smaller calls are filled up to one of them.

    Attributes:
        batch_size: examples per call, ascending; empty for the command line's.
        seq_len: tokens per example, ascending; empty for the command line's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    batch_size: Sizes = ()
    seq_len: Sizes = ()

    @field_validator("batch_size", "seq_len")
    @classmethod
    def _ascending(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError(f"{list(value)} must ascend, each once")
        return value

    def for_calls(self, batch_size: int, seq_len: int) -> CudaGraphs:
        """The same shapes, with a call's own sizes where none are stated.

        Args:
            batch_size: examples per call.
            seq_len: tokens per example.

        Returns:
            A copy with at least one shape.

        Raises:
            TargetError: the call is larger than every stated shape, or there are too many.
        """
        made = CudaGraphs(batch_size=self.batch_size or (batch_size,), seq_len=self.seq_len or (seq_len,))
        if made.bucket(batch_size, seq_len) is None:
            raise TargetError(
                f"a call of {batch_size} x {seq_len} is larger than every shape of [cuda_graphs] in the target's file "
                f"({made}), so it would run without a graph; add the size there, or leave both lists out"
            )
        if len(made.shapes) > MOST_GRAPHS:
            raise TargetError(
                f"[cuda_graphs] in the target's file states {len(made.shapes)} shapes, and at most {MOST_GRAPHS} are "
                "captured; list fewer sizes"
            )
        return made

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Batch size and length of each graph, in order; a graph's number (``gpu_graph_id``) is its place, from 1."""
        return tuple((batch, length) for batch in self.batch_size for length in self.seq_len)

    def bucket(self, batch_size: int, seq_len: int | None) -> tuple[int, int] | None:
        """The smallest captured shape that a call fits into.

        Args:
            batch_size: examples of the call.
            seq_len: tokens of each; None for inputs without a length, such as images.

        Returns:
            Batch size and length; None if the call is larger than every shape.
        """
        batch = _least(self.batch_size, batch_size)
        length = _least(self.seq_len, seq_len or 1)
        return None if batch is None or length is None else (batch, length)

    def __str__(self) -> str:
        return ", ".join(f"{batch} x {length}" for batch, length in self.shapes)


def _least(sizes: Sequence[int], wanted: int) -> int | None:
    return next((size for size in sizes if size >= wanted), None)
