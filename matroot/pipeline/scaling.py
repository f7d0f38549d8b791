"""Before a solve and after it: symmetry checked, powers of two taken out and put back."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from matroot._regularization import Regularization
from matroot.backends.arrays import Origin, round_to, unit_roundoff
from matroot.pipeline.call import Job

Array = Any

#: A symmetric matrix may miss its transpose by this much of its largest entry, in units of sqrt(eps): rounding.
ASYMMETRY = 1.0
#: Two to this power takes every number of float64 out of its range.
BEYOND = 5000
#: Rows and columns of a tile that fits into the cache with its transpose.
TILE = 128


def check_symmetric(A: Array, size: Array, origin: Origin) -> bool:
    """Whether A has to be symmetrized; an error when it is not symmetric up to rounding."""
    gap = asymmetry(A)
    if not gap.any():
        return False
    refuse_asymmetric(float((gap / np.where(size > 0, size, 1)).max()), A.dtype.kind == "c", origin)
    return True


def asymmetry(A: Array) -> Array:
    """max|A - A^H| of each matrix of a stack, by tiles: a transposed matrix is not read against the cache's grain."""
    n = A.shape[-1]
    gap = np.zeros(A.shape[:-2])
    for i in range(0, n, TILE):
        for j in range(0, i + 1, TILE):
            other = A[..., j : j + TILE, i : i + TILE].swapaxes(-1, -2)
            D = A[..., i : i + TILE, j : j + TILE] - (other.conj() if A.dtype.kind == "c" else other)
            gap = np.maximum(gap, abs(D).max((-1, -2)))
    return gap


def refuse_asymmetric(gap: float, is_complex: bool, origin: Origin) -> None:
    """An error when max|A - A^H| is more than rounding; `gap` is relative to max|A|."""
    if gap > ASYMMETRY * unit_roundoff(origin.dtype_name) ** 0.5:
        kind = "Hermitian" if is_complex else "symmetric"
        raise ValueError(
            f"a is not {kind}: max|A - A^H| is {gap:.1e} of max|A|; for a general matrix pass assume_a='gen'"
        )


def scale_exponent(size: Array, rule: Regularization | None) -> Array:
    """e such that A / 2^e has its largest entry in [1/2, 1); 0 for a zero matrix."""
    absolute = rule.absolute_size() if rule is not None else 0.0
    _, exponent = np.frexp(np.maximum(np.asarray(size, dtype=np.float64), absolute))
    return np.minimum(exponent, 1023)


def prepared(stack: Array, finite: Array, exponent: Array, dtype: Any) -> Array:
    """The matrices over 2^exponent as a new stack of `dtype`, scaled before they are cast; I for what is not finite."""
    A = np.array(stack, dtype=np.result_type(stack.dtype, dtype), order="C")
    if not finite.all():
        A[~finite] = np.eye(A.shape[-1], dtype=A.dtype)
    shift_by_power_of_two(A, -exponent)
    with np.errstate(under="ignore"):
        return A.astype(dtype, copy=False)


def shift_by_power_of_two(A: Array, exponent: Array) -> None:
    """A *= 2^exponent, in place and exact, also where 2^exponent alone would overflow."""
    most = 1000 if A.real.dtype.itemsize == 8 else 120
    while exponent.any():
        part = np.clip(exponent, -most, most)
        A *= np.ldexp(1.0, part).astype(A.real.dtype)[:, None, None]
        exponent = exponent - part


def scale_root(X: Array, exponent: Array, s: Any) -> None:
    """X *= 2^(exponent s), in place; exact where exponent * s is whole."""
    power = [Fraction(s) * int(e) for e in exponent]  # of a float, too, without rounding
    whole = np.array([e.__floor__() for e in power])
    rest = np.array([2.0 ** float(e - int(w)) for e, w in zip(power, whole, strict=True)])
    if (rest != 1).any():
        X *= rest.astype(X.real.dtype)[:, None, None]
    shift_by_power_of_two(X, np.clip(whole, -BEYOND, BEYOND))


def to_output(X: Array, exponent: Array, s: Any, job: Job) -> Array:
    """The root in the caller's units and precision, scaled before it is rounded; X may be overwritten."""
    wide = X.astype(np.result_type(X.dtype, np.float64), copy=False)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        scale_root(wide, exponent, s)
        return round_to(wide.astype(job.out_dtype, copy=False), job.origin.dtype_name)
