"""A sparse matrix as bytes: the places of its elements, and their values. Arrays in, arrays out.

Laws (``tests/sparsity/test_packing.py``): ``unpack(pack(q)) == q`` for every matrix of int8, whichever form is taken;
whatever bytes are given, ``unpack`` gives a matrix or raises ``ValueError``; a zero never becomes anything else.

Two forms say where the elements lie, row after row:

- ``bitmap``: a bit for each, set where it is kept; 1/8 byte per element of the matrix.
- ``steps``: for each kept element how many were left out since the one before it, in ``width`` bits. The largest number
  of that width, n, has no element: it stands for n left out, and the count goes on. The width is the one that takes
  least: 4 to 5 bits at one in ten, 6 at one in thirty, where entropy coding could reach 4.7 and 6.5 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Form = Literal["bitmap", "steps"]
WIDTHS = range(2, 9)


@dataclass(frozen=True)
class Packed:
    """A matrix of int8 with many zeros.

    Attributes:
        form: how ``where`` is to be read.
        width: bits of a step; 1 for a bitmap.
        where: bytes, the first bit of each the highest.
        values: those that are not zero, int8, row after row.
        shape: of the matrix.
    """

    form: Form
    width: int
    where: NDArray[np.uint8]
    values: NDArray[np.int8]
    shape: tuple[int, int]

    @property
    def size_bytes(self) -> int:
        """Of places and values."""
        return int(self.where.nbytes + self.values.nbytes)


def quantized(matrix: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A matrix in int8, symmetric, with one scale per row (output channel); zeros stay zeros.

    Returns:
        Values of -127..127, and scales [rows]; value times scale is within half a scale of the weight.
    """
    largest = np.abs(matrix).max(axis=1, initial=0.0).astype(np.float32)
    # Below the smallest normal number a division would overflow: such a row counts as zeros.
    scales = np.where(largest > 127 * np.finfo(np.float32).tiny, largest / np.float32(127), 1.0).astype(np.float32)
    values = np.clip(np.rint(matrix / scales[:, None]), -127, 127)
    return values.astype(np.int8), scales


def restored(values: NDArray[np.int8], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights from int8 values and scales.

    Args:
        values: [rows, columns].
        scales: [rows].
    """
    return values.astype(np.float32) * scales[:, None]


def pack(matrix: NDArray[np.int8], form: Form | None = None, width: int | None = None) -> Packed:
    """Pack a matrix in the form that takes the fewest bytes.

    Args:
        matrix: [rows, columns].
        form: None takes the smaller one.
        width: bits of a step, 2..8; ignored unless ``form`` is ``steps``, where None is 8.
    """
    rows, columns = matrix.shape
    flat = matrix.ravel()
    places = np.flatnonzero(flat)
    gaps = np.diff(places, prepend=-1) - 1
    if form is None:
        width, bits = min(((w, _bits(gaps, w)) for w in WIDTHS), key=lambda pair: pair[1])
        form = "steps" if -(-bits // 8) < -(-flat.size // 8) else "bitmap"
    if form == "bitmap":
        return Packed("bitmap", 1, np.packbits(flat != 0), flat[places], (rows, columns))
    width = width or 8
    most = (1 << width) - 1
    # Before each element as many full steps as fit into its gap, then the remainder.
    full = gaps // most
    codes = np.full(int(full.sum()) + len(gaps), most, dtype=np.uint8)
    codes[np.cumsum(full + 1) - 1] = gaps - full * most
    where = np.packbits(np.unpackbits(codes[:, None], axis=1)[:, 8 - width :])
    return Packed("steps", width, where, flat[places], (rows, columns))


def unpack(packed: Packed) -> NDArray[np.int8]:
    """The matrix, [rows, columns].

    Raises:
        ValueError: the bytes are not those of a matrix of this shape.
    """
    size = packed.shape[0] * packed.shape[1]
    count = len(packed.values)
    if packed.form == "bitmap":
        if len(packed.where) != -(-size // 8):
            raise ValueError(f"a bitmap of {len(packed.where)} bytes for {size} elements")
        bits = np.unpackbits(packed.where)
        places = np.flatnonzero(bits)
    else:
        places = _places(packed, count)
    if len(places) != count or (count and places[-1] >= size):
        raise ValueError(f"places of {len(places)} elements for {count} values of a matrix of {size}")
    if not packed.values.all():
        raise ValueError("a zero among the values that are none")
    flat = np.zeros(size, dtype=np.int8)
    flat[places] = packed.values
    return flat.reshape(packed.shape)


def _bits(gaps: NDArray[np.int64], width: int) -> int:
    return width * (len(gaps) + int((gaps // ((1 << width) - 1)).sum()))


def _places(packed: Packed, count: int) -> NDArray[np.int64]:
    width = packed.width
    if width not in WIDTHS:
        raise ValueError(f"steps of {width} bits")
    bits = np.unpackbits(packed.where)
    codes = np.zeros((len(bits) // width, 8), dtype=np.uint8)
    codes[:, 8 - width :] = bits[: codes.shape[0] * width].reshape(-1, width)
    steps = np.packbits(codes, axis=1).ravel().astype(np.int64)
    most = (1 << width) - 1
    landed = np.flatnonzero(steps != most)
    # The padding of the last byte reads as steps, too.
    if len(landed) < count or (count == 0 and len(packed.where)):
        raise ValueError(f"places of {len(landed)} elements for {count} values")
    places: NDArray[np.int64] = np.cumsum(np.where(steps == most, most, steps + 1))[landed[:count]] - 1
    used = int(landed[count - 1]) + 1 if count else 0
    if -(-used * width // 8) != len(packed.where) or bits[used * width :].any():
        raise ValueError("something follows the last element")
    return places
