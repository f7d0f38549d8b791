"""Large matrices in tridiagonal form, and the arrays that hold them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from matroot.methods.base import Array, FloatArray

#: Numbers by which a row of the reflectors is longer: rows at a distance of a power of two push each other out of the
#: cache.
PADDING = 8
#: Most numbers of a register, and its bytes, as many as in a line of the cache.
WIDE, LINE = 16, 64
#: A, d, e, tau as `large.kernel.reduced` leaves them.
Form = tuple[Array, FloatArray, FloatArray, Array]


class Reduced(NamedTuple):
    """A matrix in tridiagonal form, scaled by `halves`; whether it is symmetric to the last bit."""

    form: Form
    halves: FloatArray
    symmetric: bool
    exponent: int


def filled(n: int) -> int:
    """Return n, or the next number that fills registers."""
    return -(-n // WIDE) * WIDE


def padded(n: int, kind: Any) -> Array:
    """Return an array for reflectors and root of order n, whose rows fill registers."""
    return aligned((filled(n), filled(n) + PADDING), kind)


def room_of(B: int, n: int) -> FloatArray:
    """Return an array for the tridiagonal forms of B real matrices, which `form_in` takes apart."""
    return aligned((B, filled(n) + 4, filled(n) + PADDING), np.float64)


def aligned(shape: tuple[int, ...], kind: Any) -> Array:
    """Return an empty array that begins a line of the cache, for which reductions take a tenth less time."""
    room = np.empty(math.prod(shape) + WIDE, kind)
    start = -room.ctypes.data % LINE // room.itemsize
    return room[start : start + math.prod(shape)].reshape(shape)


def form_in(room: FloatArray, n: int) -> tuple[Form, FloatArray]:
    """Return the form (A, d, e, tau) of one matrix and its `halves`, which lie in one array of `room_of`."""
    rows = len(room) - 4
    return (room[:rows], room[rows, :n], room[rows + 1, :n], room[rows + 2, :n]), room[rows + 3, :2]


def readable(a: Array) -> bool:
    """Return True if the compiled loops take an array as it is; numba has another type for read-only arrays."""
    return a.dtype.char in "dfDF" and a.flags.c_contiguous and a.flags.aligned and a.flags.writeable


def in_pairs(a: Array) -> Array:
    """View complex numbers as pairs of real ones."""
    return a.view(a.real.dtype) if a.dtype.kind == "c" else a
