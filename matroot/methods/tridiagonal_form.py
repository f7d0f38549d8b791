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
    """A matrix in tridiagonal form, scaled by `halves`; whether it is symmetric to the last bit.

    `ends` has room for the extreme eigenvalues of the form, NaN until they are known.
    """

    form: Form
    halves: FloatArray
    ends: FloatArray
    symmetric: bool
    exponent: int


class Taken(NamedTuple):
    """A reduced matrix and what is known of it before its root is computed.

    S is the matrix, or its Hermitian part, `gap` away from it. S times both `halves` has the form, and eigenvalues from
    `low` to `high`; it is to be moved by `shift`. `units` undo `halves`; `factor`^2 is the scale of the root.
    """

    S: Array
    form: Form
    halves: FloatArray
    units: tuple[float, float]
    factor: float
    gap: float
    low: float
    high: float
    shift: float

    @property
    def bottom(self) -> float:
        """Return the smallest eigenvalue of the shifted matrix."""
        return self.low + self.shift

    @property
    def top(self) -> float:
        """Return its largest eigenvalue."""
        return self.high + self.shift

    @property
    def cond(self) -> float:
        """Return its condition number, infinite if it is not positive definite."""
        return max(self.top / self.bottom, 1.0) if self.bottom > 0 else math.inf

    def is_semidefinite(self, noise: float) -> bool:
        """Return True if nothing is below 0 but noise, a share of the largest eigenvalue, and what asymmetry makes."""
        least = -(noise + len(self.S) * self.gap / 2) if noise > 0 else 0.0
        return self.top > 0 and self.bottom >= least * self.top

    def facts(
        self, served: float, error: float, bottom: float, shift: float | None = None, cond: float | None = None
    ) -> tuple[float, ...]:
        """Return the fields of `Report`, `bottom` for `lambda_min`; shift and cond are its own if not given."""
        one, other = self.units
        shift = self.shift if shift is None else shift
        ends = bottom * one * other, self.high * one * other
        return served, self.gap, error, *ends, shift * one * other, self.cond if cond is None else cond


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


def form_in(room: FloatArray, n: int) -> tuple[Form, FloatArray, FloatArray]:
    """Return the form (A, d, e, tau) of one matrix, its `halves` and `ends`, which lie in one array of `room_of`."""
    rows = len(room) - 4
    form = room[:rows], room[rows, :n], room[rows + 1, :n], room[rows + 2, :n]
    return form, room[rows + 3, :2], room[rows + 3, 2:4]


def readable(a: Array) -> bool:
    """Return True if the compiled loops take an array as it is; numba has another type for read-only arrays."""
    return a.dtype.char in "dfDF" and a.flags.c_contiguous and a.flags.aligned and a.flags.writeable


def beside(S: Array, X: Array) -> Array:
    """Return X as the certificate takes it beside S: not in less precision, so that there are few kinds to compile."""
    kind = np.result_type(S, X)
    return X if readable(X) and X.dtype == kind else X.astype(kind, order="C")


def in_pairs(a: Array) -> Array:
    """View complex numbers as pairs of real ones."""
    return a.view(a.real.dtype) if a.dtype.kind == "c" else a
