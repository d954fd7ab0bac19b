"""Work that is done again with fewer examples at once."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compress.core.oom import out_of_memory, with_fewer


@given(st.integers(1, 200), st.integers(1, 200))
def test_it_is_halved_until_it_fits(most: int, fits: int) -> None:
    asked: list[int] = []
    said: list[str] = []

    def work(at_once: int) -> int:
        asked.append(at_once)
        if at_once > fits:
            raise MemoryError
        return at_once

    found = with_fewer(work, most, said.append)
    assert found == asked[-1] <= fits and all(b == -(-a // 2) for a, b in itertools.pairwise(asked))
    assert len(said) == len(asked) - 1 and (found == most) == (most <= fits)


def test_other_errors_and_what_does_not_fit_at_all_are_raised() -> None:
    def broken(_: int) -> None:
        raise RuntimeError("shapes do not fit")

    def never(_: int) -> None:
        raise MemoryError("not even one")

    with pytest.raises(RuntimeError, match="shapes"):
        with_fewer(broken, 8)
    with pytest.raises(MemoryError, match="not even one"):
        with_fewer(never, 8)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ..."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB, ...)"), True),
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), False),
    ],
)
def test_the_words_of_gpus_are_understood(error: RuntimeError, expected: bool) -> None:
    assert out_of_memory(error) is expected
