"""The defining equations of the returned matrices, evaluated in float64, and the statuses that follow."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from matroot._bars import ILL_FORWARD_ERROR, ILL_INPUT_ERROR
from matroot._status import Status
from matroot.backends.arrays import is_inexact, smallest_normal
from matroot.backends.linalg import adjoint
from matroot.methods.conditioning import PROBES, random_columns
from matroot.rectangular.powers import ROUNDING, Found, gram_error, stack_norm
from matroot.rectangular.stack import Stack

Array = Any

#: Up to this n whole products are used, above it `PROBES` random vectors.
FULL = 32
#: Residuals are below this multiple of the first-order effect of rounding.
MARGIN = 20
#: Above this a residual vouches for no digit, whatever explains it; X = 0 has 1.
NO_DIGIT = 0.5


def kind(n: int) -> str:
    """Return how residuals are evaluated for matrices with n columns."""
    return "full" if n <= FULL else "probes"


def orthogonality(stack: Stack, X: Array, kept: Array) -> Array:
    """Compute ||U^H U - I||_F / sqrt(n), or ||U^H U - (U^H U)^2||_F / sqrt(rank) where the rank is below n."""
    return defect(X, kept, lambda V: adjoint(X) @ times(X, V), stack)


def polar_residual(stack: Stack, X: Array, H: Array) -> Array:
    """Compute ||U H - A||_F / ||A||_F of the caller's A; H is that of the caller, too."""
    V = vectors(stack)
    goal = times(stack.A, V)
    return ratio((H @ times(X, V) if stack.flipped else X @ times(H, V)) - goal, goal, stack)


def power_residual(stack: Stack, X: Array, s: Fraction, found: Found) -> Array:
    """Compute the larger of two residuals of X = U S^s V^H with s = a/b; see `SpectralResult`."""
    A, V = stack.A, vectors(stack)
    a, b = abs(s.numerator), s.denominator
    unit = stack.backend.xp.where(found.largest > 0, found.largest, 1)[:, None, None]  # sigma_max of A

    def grams(Y: Array, power: float, count: int, W: Array) -> Array:
        for _ in range(count):
            W = adjoint(Y) @ times(Y, W) * unit ** (-2 * power)
        return W

    def balanced(W: Array) -> Array:
        """Apply (A^H X)^(2a) (X^H X)^(b-a) = I, in an order whose partial products stay near I: see `growth`."""
        power, mixed, same = 0, 2 * a, b - a  # of the singular values, times b
        while mixed or same:
            if same and (not mixed or abs(power - 2 * a) < abs(power + b - a)):
                W, power, same = grams(X, float(s), 1, W), power - 2 * a, same - 1
            else:
                W, power, mixed = adjoint(A) @ times(X, W) * unit ** float(-1 - s), power + b - a, mixed - 1
        return W

    with np.errstate(all="ignore"):
        if s > 0:
            goal = grams(A, 1, a, V)
            first = ratio(grams(X, float(s), b, V) - goal, goal, stack)
        else:
            first = defect(X, found.kept, balanced, stack)
        K = adjoint(A) @ times(X, V)
        return stack.backend.xp.maximum(first, ratio(K - adjoint(X) @ times(A, V), K, stack))


def defect(X: Array, kept: Array, apply: Callable[[Array | None], Array], stack: Stack) -> Array:
    """Compute ||P - I||_F / sqrt(n) of the matrix that `apply` applies, or ||P^2 - P||_F / sqrt(rank)."""
    xp, n = stack.backend.xp, X.shape[-1]
    V = vectors(stack)
    W = apply(V)
    deficient = kept < n
    R = W - (xp.eye(n) if V is None else V)
    if stack.backend.any(deficient):
        R = xp.where(deficient[:, None, None], apply(W) - W, R)
    return stack_norm(R) / ((1 if n <= FULL else PROBES) * xp.maximum(kept, 1)) ** 0.5


def vectors(stack: Stack) -> Array | None:
    """Return the random vectors to which residuals are applied, or None for whole products."""
    xp, n = stack.backend.xp, stack.A.shape[-1]
    return None if n <= FULL else xp.asarray(random_columns(n, PROBES)).astype(stack.A.dtype)


def times(X: Array, V: Array | None) -> Array:
    """Compute X V; None stands for I."""
    return X if V is None else X @ V


def ratio(R: Array, goal: Array, stack: Stack) -> Array:
    """Compute ||R||_F / ||goal||_F, 0 where both are 0."""
    xp = stack.backend.xp
    size = stack_norm(goal)
    return stack_norm(R) / xp.where(size > 0, size, 1)


def faintness(stack: Stack) -> tuple[Array, float]:
    """Return the error that rounding of H to subnormal numbers adds to its residual, and the least normal number."""
    xp = stack.backend.xp
    name = stack.origin.dtype_name
    normal = smallest_normal(name if is_inexact(name) else stack.out_dtype.name)
    size = stack_norm(stack.A)
    spacing = stack.unit * xp.ldexp(normal, -stack.exponent)  # half of that of all subnormal numbers
    order = stack.A.shape[-2 if stack.flipped else -1]
    return order * spacing / xp.where(size > 0, size, 1), normal


def statuses(stack: Stack, s: Fraction, found: Found, x: Array, residual: Array, explained: Array) -> Array:
    """Return the status of every matrix; `explained` is the residual that rounding explains."""
    xp = stack.backend.xp
    n = stack.A.shape[-1]
    with np.errstate(all="ignore"):
        ill = ~(forward_error(found.cond, s, stack.unit) <= ILL_INPUT_ERROR)
        if s <= 0:
            ill |= found.kept < n
        if s != 0:
            ill |= ~found.by_svd & ~(gram_error(found.cond, s) <= ILL_FORWARD_ERROR)
        ill |= residual > NO_DIGIT
        status = xp.where(ill, int(Status.ILL_CONDITIONED), int(Status.CONVERGED))
        status = xp.where(residual <= explained, status, int(Status.STAGNATED))
    size = abs(x).max((-1, -2)) if x.size else xp.zeros(len(x))
    name = stack.origin.dtype_name
    tiny = smallest_normal(name if is_inexact(name) else stack.out_dtype.name)
    present = found.kept > 0
    status = xp.where(present & (size < tiny), int(Status.ILL_CONDITIONED), status)
    gone = present & (size == 0)
    status = xp.where(found.failed | gone | ~xp.isfinite(size), int(Status.DIVERGED), status)
    return xp.where(stack.finite, status, int(Status.NONFINITE_INPUT)).astype(xp.int8)


def forward_error(cond: Array, s: Fraction, eps: float) -> Array:
    """Bound the relative change of U S^s V^H by relative errors eps of A."""
    if s >= 1:
        return eps * float(s) + 0 * cond
    if s > 0:
        return np.minimum(eps * cond ** (1 - float(s)), eps ** float(s))
    return eps * (1 - float(s)) * cond


def explained_residual(stack: Stack, s: Fraction, found: Found) -> Array:
    """Return the residual that rounding explains, and for s > 0 the singular values that were taken for 0.

    Rounding errors relative to ||X|| grow by `cond` in the equation of an inverse, and by cond^(2|s|) where X^H X is
    one of its factors.
    """
    n, a = stack.A.shape[-1], abs(s.numerator)
    with np.errstate(all="ignore"):
        dropped = max(n, 1) ** (a - 0.5) * found.dropped ** (2 * a) if s > 0 else 0.0
        return explained(n, stack.unit, s, found.cond) + dropped


def explained(n: int, unit: float, s: Fraction, cond: Array) -> Array:
    """Return the residual that rounding explains, of matrices with n columns and without zeros."""
    a, b = abs(s.numerator), s.denominator
    eps = MARGIN * (unit + max(n, 1) ** 0.5 * ROUNDING)
    growth = cond ** (max(1.0, 2 * a / b) if a < b else 1.0) if s < 0 else 1 + 0 * cond
    degree = 2 * (a + b)
    return np.expm1(np.minimum(degree * eps * growth, np.log(1 / eps)))
