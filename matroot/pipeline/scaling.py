"""Preparation of the input and scaling of the root: check of symmetry, scaling by powers of two."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from matroot._regularization import Regularization
from matroot.backends.arrays import Origin, round_to, unit_roundoff
from matroot.pipeline.call import Job

Array = Any

#: Largest max|A - A^H| / max|A| that counts as rounding, in units of sqrt(eps).
ASYMMETRY = 1.0
#: Multiplying by 2 to this power overflows every nonzero float64.
BEYOND = 5000
#: Rows and columns of a tile that fits into the cache with its transpose.
TILE = 128


def check_symmetric(A: Array, size: Array, origin: Origin) -> bool:
    """Return True if A has to be symmetrized; raise if it is not symmetric up to rounding."""
    gap = asymmetry(A)
    if not gap.any():
        return False
    refuse_asymmetric(float((gap / np.where(size > 0, size, 1)).max()), A.dtype.kind == "c", origin)
    return True


def asymmetry(A: Array) -> Array:
    """Compute max|A - A^H| of each matrix of a stack, by tiles, so that reading the transpose stays in cache."""
    n = A.shape[-1]
    gap = np.zeros(A.shape[:-2])
    for i in range(0, n, TILE):
        for j in range(0, i + 1, TILE):
            other = A[..., j : j + TILE, i : i + TILE].swapaxes(-1, -2)
            D = A[..., i : i + TILE, j : j + TILE] - (other.conj() if A.dtype.kind == "c" else other)
            gap = np.maximum(gap, abs(D).max((-1, -2)))
    return gap


def refuse_asymmetric(gap: float, is_complex: bool, origin: Origin) -> None:
    """Raise if max|A - A^H| is more than rounding; `gap` is relative to max|A|."""
    if gap > ASYMMETRY * unit_roundoff(origin.dtype_name) ** 0.5:
        kind = "Hermitian" if is_complex else "symmetric"
        raise ValueError(
            f"a is not {kind}: max|A - A^H| is {gap:.1e} of max|A|; for a general matrix pass assume_a='gen'"
        )


def scale_exponent(size: Array, rule: Regularization | None) -> Array:
    """Return e such that A / 2^e has its largest entry in [1/2, 1); 0 for a zero matrix."""
    absolute = rule.absolute_size() if rule is not None else 0.0
    _, exponent = np.frexp(np.maximum(np.asarray(size, dtype=np.float64), absolute))
    return np.minimum(exponent, 1023)


def prepared(stack: Array, finite: Array, exponent: Array, dtype: Any) -> Array:
    """Return a new stack of `dtype` with the matrices divided by 2^exponent before the cast; I if not finite."""
    A = np.array(stack, dtype=np.result_type(stack.dtype, dtype), order="C")
    if not finite.all():
        A[~finite] = np.eye(A.shape[-1], dtype=A.dtype)
    shift_by_power_of_two(A, -exponent)
    with np.errstate(under="ignore"):
        return A.astype(dtype, copy=False)


def shift_by_power_of_two(A: Array, exponent: Array) -> None:
    """Multiply A by 2^exponent in place; exact, also where 2^exponent itself would overflow."""
    most = 1000 if A.real.dtype.itemsize == 8 else 120
    while exponent.any():
        part = np.clip(exponent, -most, most)
        A *= np.ldexp(1.0, part).astype(A.real.dtype)[:, None, None]
        exponent = exponent - part


def scale_root(X: Array, exponent: Array, s: Any) -> None:
    """Multiply X by 2^(exponent s) in place; exact where exponent * s is an integer."""
    power = [Fraction(s) * int(e) for e in exponent]  # a Fraction of a float is exact too
    whole = np.array([e.__floor__() for e in power])
    rest = np.array([2.0 ** float(e - int(w)) for e, w in zip(power, whole, strict=True)])
    if (rest != 1).any():
        X *= rest.astype(X.real.dtype)[:, None, None]
    shift_by_power_of_two(X, np.clip(whole, -BEYOND, BEYOND))


def to_output(X: Array, exponent: Array, s: Any, job: Job) -> Array:
    """Convert the root to the caller's units and precision, scaling before rounding; X may be overwritten."""
    wide = X.astype(np.result_type(X.dtype, np.float64), copy=False)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        scale_root(wide, exponent, s)
        return round_to(wide.astype(job.out_dtype, copy=False), job.origin.dtype_name)
