"""Stacks of rectangular matrices: from the caller's array to scaled float64, and results back."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from matroot.backends import backend_of
from matroot.backends.arrays import Origin, check_numbers, is_inexact, round_to, take, unit_roundoff
from matroot.backends.base import Backend
from matroot.pipeline.scaling import scale_root, shift_by_power_of_two

Array = Any

#: Matrices whose largest entry is within 2 to this power of 1 are not scaled.
MODERATE = 30


@dataclass(frozen=True)
class Stack:
    """Matrices A (B, m, n), m >= n, divided by 2^exponent so that powers stay in the range of float64.

    Attributes
    ----------
    A : array (B, m, n), float64 or complex128
        0 where the input is not finite.
    exponent, finite : array (B,)
    flipped : bool
        A is the conjugate transpose of the caller's array, which has more columns than rows.
    batch : tuple of int
    origin : Origin
    backend : Backend
    out_dtype : dtype
        Of results before conversion to the caller's dtype: float32 for half precisions, float64 for integers.
    unit : float
        Unit roundoff of the input.
    """

    A: Array
    exponent: Array
    finite: Array
    flipped: bool
    batch: tuple[int, ...]
    origin: Origin
    backend: Backend
    out_dtype: np.dtype[Any]
    unit: float

    def part(self, rows: slice) -> Stack:
        """Return some of the matrices."""
        return replace(self, A=self.A[rows], exponent=self.exponent[rows], finite=self.finite[rows])

    def rounded(self, X: Array, s: Fraction | float) -> Array:
        """Convert X to the caller's units, of which it has the power s, and to the output's precision."""
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return round_to(self._times(X, s).astype(self.out_dtype, copy=False), self.origin.dtype_name)

    def scaled(self, X: Array, s: Fraction | float) -> Array:
        """Undo `rounded`, as far as it can be undone, in float64."""
        return self._times(X.astype(self.A.dtype), -s)

    def _times(self, X: Array, s: Fraction | float) -> Array:
        if s == 0 or not self.backend.any(self.exponent != 0):
            return X
        X = X.copy()
        scale_root(X, self.exponent, s, self.backend)
        return X

    def give_back(self, X: Array) -> Array:
        """Convert a stack of matrices to the caller's kind of array."""
        return self.origin.give_back(X.reshape(*self.batch, *X.shape[-2:]))

    def give_facts(self, values: Array) -> Array:
        """Convert one number for every matrix to the caller's kind of array."""
        return self.origin.give_back(values.reshape(self.batch), as_input=False)


def gathered(a: Array) -> Stack:
    """Check the array and return it as a stack."""
    values, origin = take(a)
    shape = tuple(values.shape)
    if len(shape) < 2:
        raise ValueError(f"a must be (..., m, n), got {shape}")
    check_numbers(values.dtype, origin)
    name = origin.dtype_name
    backend = backend_of(values)
    xp = backend.xp
    with backend.here(origin):
        A = values.reshape(math.prod(shape[:-2]), *shape[-2:]).astype(np.result_type(values.dtype, np.float64))
        flipped = shape[-2] < shape[-1]
        if flipped:
            A = A.conj().swapaxes(-1, -2)
        A = xp.ascontiguousarray(A)
        size = largest_part(A, xp)
        finite = xp.isfinite(size)
        if backend.any(~finite):
            A = xp.where(finite[:, None, None], A, 0)
        _, exponent = xp.frexp(xp.where(finite, size, 1))
        exponent = xp.where(abs(exponent) > MODERATE, exponent, 0)
        if backend.any(exponent != 0):
            shift_by_power_of_two(A, -exponent, backend)
    half = name in ("float16", "bfloat16")
    out_dtype = np.dtype("float32" if half else name if is_inexact(name) else "float64")
    unit = unit_roundoff(name) if is_inexact(name) else 2.0**-53
    return Stack(A, exponent, finite, flipped, shape[:-2], origin, backend, out_dtype, unit)


def largest_part(A: Array, xp: Any) -> Array:
    """Compute the largest real or imaginary part of every matrix, infinite or NaN where the matrix is not finite."""
    if not A.size:
        return xp.zeros(len(A))
    parts = A.view(np.float64) if A.dtype.kind == "c" else A
    return xp.maximum(parts.max((-1, -2)), -parts.min((-1, -2)))
