"""Preparation of the input and scaling of the root: check of symmetry, scaling by powers of two."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

from matroot._regularization import Regularization
from matroot.backends.arrays import Origin, round_to, unit_roundoff
from matroot.backends.base import Backend
from matroot.backends.linalg import hermitian_part
from matroot.pipeline.call import Job

Array = Any

#: Largest max|A - A^H| / max|A| that counts as rounding: sqrt(u) of the input's dtype, or what sums in float32 leave
#: behind in float64. For two orders of summation of 100 000 samples 2e-7 was measured by BLAS, 6e-6 by running sums.
SUMMED_IN_FLOAT32 = 128 * 2.0**-24
#: Multiplying by 2 to this power overflows every nonzero float64.
BEYOND = 5000
#: Rows and columns of a tile that fits into the cache with its transpose.
TILE = 128


def asymmetry(A: Array, backend: Backend) -> Array:
    """Compute max|A - A^H| / max|A| of each matrix of a stack; 0 for a zero matrix."""
    n = A.shape[-1]
    tile = n if backend.sync_free() else TILE  # on a CPU by tiles, so that reading the transpose stays in cache
    gap = backend.xp.zeros(A.shape[:-2])
    for i in range(0, n, tile):
        for j in range(0, i + 1, tile):
            other = A[..., j : j + tile, i : i + tile].swapaxes(-1, -2)
            with np.errstate(over="ignore", invalid="ignore"):
                D = A[..., i : i + tile, j : j + tile] - (other.conj() if A.dtype.kind == "c" else other)
                gap = backend.xp.maximum(gap, abs(D).max((-1, -2)))
    if not backend.any(gap > 0):
        return gap
    size = abs(A).max((-1, -2))
    return gap / backend.xp.where(size > 0, size, 1)


def asymmetry_bar(origin: Origin) -> float:
    """Return the largest relative asymmetry that counts as rounding."""
    return float(max(unit_roundoff(origin.dtype_name) ** 0.5, SUMMED_IN_FLOAT32))


def refuse_asymmetric(gap: float, is_complex: bool, origin: Origin) -> None:
    """Raise if max|A - A^H| is more than rounding; `gap` is relative to max|A|."""
    if gap > asymmetry_bar(origin):
        kind, mean = ("Hermitian", "(A + A^H) / 2") if is_complex else ("symmetric", "(A + A^T) / 2")
        raise ValueError(
            f"a is not {kind}: max|A - A^H| is {gap:.1e} of max|A|; pass assume_a='gen' for a general "
            f"matrix, or {mean} if that is rounding of your own"
        )


def symmetrized(A: Array, origin: Origin, backend: Backend, lone: bool = False) -> tuple[Array, Array]:
    """Return the Hermitian part of a stack, which may be the stack itself, and the relative asymmetry (B,).

    On the CPU, ValueError if a lone matrix is not symmetric up to rounding.
    """
    gap = asymmetry(A, backend)
    if not backend.any(gap > 0):
        return A, gap
    if lone and not backend.sync_free():
        refuse_asymmetric(float(gap.max()), A.dtype.kind == "c", origin)
    return hermitian_part(A), gap


def scale_exponent(size: Array, rule: Regularization | None, xp: Any) -> Array:
    """Return e such that A / 2^e has its largest entry in [1/2, 1); 0 for a zero matrix."""
    absolute = rule.coefficients().absolute if rule is not None else 0.0
    _, exponent = xp.frexp(xp.maximum(size.astype(xp.float64), absolute))
    return xp.minimum(exponent, 1023)


def prepared(stack: Array, finite: Array, exponent: Array, dtype: Any, backend: Backend) -> Array:
    """Return a new stack of `dtype` with the matrices divided by 2^exponent before the cast; I if not finite."""
    xp = backend.xp
    A = xp.array(stack, dtype=np.result_type(stack.dtype, dtype), order="C")
    if backend.any(~finite):
        xp.copyto(A, xp.eye(*A.shape[-2:], dtype=A.dtype), where=~finite[:, None, None])
    shift_by_power_of_two(A, -exponent, backend)
    with np.errstate(under="ignore"):
        return A.astype(dtype, copy=False)


def power_of_two(exponent: Array, xp: Any) -> Array:
    """Return 2^exponent in float64, exact."""
    return xp.ldexp(xp.ones(exponent.shape), exponent.astype(xp.int32))


def shift_by_power_of_two(A: Array, exponent: Array, backend: Backend) -> None:
    """Multiply A by 2^exponent in place; exact, also where 2^exponent itself would overflow."""
    xp = backend.xp
    if backend.sync_free():
        real = A.view(A.real.dtype)
        xp.ldexp(real, exponent.astype(xp.int32)[:, None, None], out=real)
        return
    most = 1000 if A.real.dtype.itemsize == 8 else 120
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows gets a status; infinite + 0j times 2 has NaN
        while exponent.any():  # a product is faster than ldexp
            part = np.clip(exponent, -most, most)
            A *= power_of_two(part, xp).astype(A.real.dtype)[:, None, None]
            exponent = exponent - part


def scale_root(X: Array, exponent: Array, s: Fraction | float, backend: Backend, more: Array | int = 0) -> None:
    """Multiply X by 2^(exponent s + more) in place; exact where exponent * s is an integer."""
    xp, rest = backend.xp, None
    if isinstance(s, Fraction):
        power = exponent.astype(xp.int64) * s.numerator
        whole = power // s.denominator
        if s.denominator > 1:
            rest = xp.asarray(_fractions_of_two(s.denominator))[power - whole * s.denominator]
    else:
        high = _leading(s)  # exponent * high is exact
        power = exponent * high
        whole = xp.floor(power)
        rest = xp.exp2(power - whole + exponent * (s - high))
    if rest is not None:
        down = whole < 0  # X may be near the largest number there, and near the smallest otherwise
        rest, whole = xp.where(down, rest / 2, rest), whole + down
        with np.errstate(over="ignore", invalid="ignore"):  # as below
            X *= rest.astype(X.real.dtype)[:, None, None]
    shift_by_power_of_two(X, xp.clip(whole + more, -BEYOND, BEYOND), backend)


@lru_cache(maxsize=64)
def _fractions_of_two(b: int) -> Array:
    """Return 2^(k / b) for k from 0 to b - 1."""
    return np.array([2.0 ** (k / b) for k in range(b)])


def _leading(s: float) -> float:
    """Return `s` to its leading 40 bits."""
    mantissa, exponent = math.frexp(s)
    return math.ldexp(round(math.ldexp(mantissa, 40)), exponent - 40)


def to_output(X: Array, exponent: Array, s: Fraction | float, job: Job) -> Array:
    """Convert the root to the caller's units and precision, scaling before rounding; X may be overwritten."""
    wide = X.astype(np.result_type(X.dtype, np.float64), copy=False)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        scale_root(wide, exponent, s, job.backend)
        return round_to(wide.astype(job.out_dtype, copy=False), job.origin.dtype_name)
