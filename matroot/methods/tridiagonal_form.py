"""Large matrices in tridiagonal form, and the arrays that hold them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from matroot.methods.base import Array, FloatArray

#: Numbers by which a row of the reflectors is longer: rows at a distance of a power of two push each other out of the
#: cache.
PADDING = 8
#: Rows and columns are filled up to whole registers, of as many numbers at most.
WIDE = 16
#: A, d, e, tau as `large.kernel.reduced` leaves them.
Form = tuple[Array, FloatArray, FloatArray, Array]


class Reduced(NamedTuple):
    """A matrix in tridiagonal form, scaled by `halves`; whether it is symmetric to the last bit."""

    form: Form
    halves: FloatArray
    symmetric: bool
    exponent: int


def padded(n: int, kind: Any) -> Array:
    """Return an array for reflectors and root of order n, with rows and columns up to whole registers."""
    rows = -(-n // WIDE) * WIDE
    return np.empty((rows, rows + PADDING), kind)


def room_of(B: int, n: int) -> FloatArray:
    """Return an array for the tridiagonal forms of B real matrices, which `form_in` takes apart."""
    return np.empty((B, n + 4, n + PADDING))


def form_in(room: FloatArray) -> tuple[Form, FloatArray]:
    """Return the form (A, d, e, tau) of one matrix and its `halves`, which lie in one array (n + 4, n + PADDING)."""
    n = len(room) - 4
    return (room[:n], room[n, :n], room[n + 1, :n], room[n + 2, :n]), room[n + 3, :2]


def readable(a: Array) -> bool:
    """Return True if the compiled loops take an array as it is; numba has another type for read-only arrays."""
    return a.dtype.char in "dfDF" and a.flags.c_contiguous and a.flags.aligned and a.flags.writeable


def in_pairs(a: Array) -> Array:
    """View complex numbers as pairs of real ones."""
    return a.view(a.real.dtype) if a.dtype.kind == "c" else a
