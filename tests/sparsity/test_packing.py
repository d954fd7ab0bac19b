"""Places and values of what is left of a matrix: nothing is lost, nothing appears, the smaller form is taken."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from compress.sparsity.packing import WIDTHS, Packed, pack, quantized, restored, unpack

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 60))
DENSITIES = st.sampled_from([0.0, 0.003, 0.03, 0.1, 0.3, 1.0])


def sparse(shape: tuple[int, int], density: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.integers(-127, 128, size=shape) * (rng.random(shape) < density)).astype(np.int8)


@given(SHAPES, DENSITIES, st.integers(0, 999), st.sampled_from(WIDTHS))
def test_every_form_gives_back_what_went_in(shape: tuple[int, int], density: float, seed: int, width: int) -> None:
    matrix = sparse(shape, density, seed)
    forms = [pack(matrix), pack(matrix, "bitmap"), pack(matrix, "steps", width)]
    for packed in forms:
        assert np.array_equal(unpack(packed), matrix)
        assert np.count_nonzero(unpack(packed)) == len(packed.values)
    every = [pack(matrix, "bitmap"), *(pack(matrix, "steps", w) for w in WIDTHS)]
    assert forms[0].size_bytes == min(one.size_bytes for one in every)


@given(hnp.arrays(np.int8, SHAPES, elements=st.integers(-127, 127)))
def test_any_matrix_at_all(matrix: np.ndarray) -> None:
    assert np.array_equal(unpack(pack(matrix)), matrix)


@pytest.mark.parametrize(("density", "form", "bits"), [(0.03, "steps", 7.2), (0.1, "steps", 5.2), (0.6, "bitmap", 1.8)])
def test_the_form_and_the_bits_that_a_density_takes(density: float, form: str, bits: float) -> None:
    packed = pack(sparse((384, 1536), density, 0) | (np.int8(0)))
    assert packed.form == form
    assert 8 * len(packed.where) / len(packed.values) < bits
    # Where entropy coding could get to.
    p = len(packed.values) / (384 * 1536)
    assert 8 * len(packed.where) / len(packed.values) > -(p * np.log2(p) + (1 - p) * np.log2(1 - p)) / p


@given(
    st.sampled_from(["bitmap", "steps"]),
    st.integers(0, 9),
    st.binary(max_size=40),
    st.lists(st.integers(-127, 127), max_size=20),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_any_bytes_are_a_matrix_or_an_error(
    form: str, width: int, where: bytes, values: list[int], shape: tuple[int, int]
) -> None:
    packed = Packed(form, width, np.frombuffer(where, np.uint8), np.array(values, np.int8), shape)  # type: ignore[arg-type]
    try:
        matrix = unpack(packed)
    except ValueError:
        return
    assert matrix.shape == shape and np.count_nonzero(matrix) == len(values)


def test_a_byte_too_many_or_too_few_is_found() -> None:
    for form in ("bitmap", "steps"):
        packed = pack(sparse((9, 13), 0.2, 1), form)  # type: ignore[arg-type]
        for wrong in (packed.where[:-1], np.append(packed.where, np.uint8(0))):
            with pytest.raises(ValueError):
                unpack(replace(packed, where=wrong))
        with pytest.raises(ValueError):
            unpack(replace(packed, values=packed.values[:-1]))


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 8), st.integers(1, 8)), elements=st.floats(-1e6, 1e6, width=32)))
def test_int8_is_within_half_a_scale_and_zeros_stay(matrix: np.ndarray) -> None:
    values, scales = quantized(matrix)
    again = restored(values, scales)
    assert np.isfinite(scales).all() and (scales > 0).all() and np.abs(values).max() <= 127
    assert np.all(again[matrix == 0] == 0)
    assert np.all(np.abs(again - matrix) <= 0.5001 * scales[:, None] + 1e-30)
