"""Stochastic p-th roots of transition matrices: the principal root, or the nearest stochastic matrix to a root."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Generic, NamedTuple

import numpy as np
from numpy.typing import NDArray

from matroot._result import A, OfBatch, on_host
from matroot._solve import check_degree, solve_power
from matroot._status import Status, place
from matroot.backends import backend_of
from matroot.backends.arrays import check_numbers, check_square, is_inexact, round_to, take, unit_roundoff
from matroot.backends.holds import confined
from matroot.backends.loading import deferred

Array = Any
Matrix = NDArray[np.float64]

#: Row sums may differ from 1 by this much; published tables have to be divided by their row sums.
SUM_ERROR = 1e-6
#: Entries of the principal root above minus this multiple of n u count as nonnegative, u that of float64; in narrower
#: dtypes only if X^p, without them, is within NEAR n u of P.
NEGATIVE, NEAR = 1000, 4
#: The angle by which a matrix is rotated off the negative axis for a complex root to start from.
ANGLE = 0.1
#: Iterations of the optimizer; published rating matrices need some 25.
ITERATIONS = 500


@dataclass(frozen=True, repr=False)
class StochasticResult(OfBatch, Generic[A]):
    """Stochastic matrices X whose p-th power is P, or as near to P as was found.

    Attributes
    ----------
    x : array, (..., n, n)
        No entry is negative, and rows add up to 1 up to rounding. NaN where the input is not finite.
    principal : array of bool, (...)
        True where the principal root of P is stochastic up to rounding, so that X is a root.
    distance : array of float64, (...)
        ``||X^p - P||_F`` of the returned X, in float64.
    least : array of float64, (...)
        Smallest entry of the principal root; NaN where P has none.
    status : array of int8, (...)
        ``CONVERGED``, ``MAX_ITER`` if the optimizer was stopped before the distance ceased to fall, or
        ``NONFINITE_INPUT``.
    p : int
    """

    x: A
    principal: Array
    distance: Array
    least: Array
    status: Array
    p: int

    def sentence(self, index: int) -> str:
        distance, least = (float(on_host(values).ravel()[index]) for values in (self.distance, self.least))
        if on_host(self.status).ravel()[index] == Status.NONFINITE_INPUT:
            return "holds NaN or infinity; the input must be finite"
        if on_host(self.principal).ravel()[index]:
            return f"has a stochastic principal root: ||X^p - P||_F is {distance:.1e}"
        roots = "it has no principal root" if np.isnan(least) else f"it has entries down to {least:.1e}"
        nearest = f"the nearest X found has ||X^p - P||_F = {distance:.1e}"
        return f"has no stochastic principal root ({roots}); {nearest}"

    @property
    def message(self) -> str:
        """The sentence of the matrix that is furthest from a stochastic root."""
        distance = on_host(self.distance)
        if distance.size == 0:
            return "empty batch"
        worst = int(np.argmax(np.where(np.isfinite(distance), distance, np.inf)))
        text = self.sentence(worst)
        return f"{distance.size} matrices; {place(worst, distance.shape)} {text}" if distance.ndim else text

    def _lines(self) -> Iterator[tuple[str, str]]:
        yield "x", f"{tuple(self.x.shape)} {self.x.dtype}"
        yield "p", str(self.p)


class _One(NamedTuple):
    x: Matrix
    principal: bool
    least: float
    status: Status


@confined
def stochastic_root(a: A, p: int, /) -> StochasticResult[A]:
    """Compute a stochastic X with X^p = P, or as near to P as can be: the month of a year of transitions.

    X is the principal root where that is stochastic. Otherwise the rows of the principal root are projected onto the
    simplex, and ``||X^p - P||_F`` is reduced from there by L-BFGS-B, to a local minimum.

    Parameters
    ----------
    a : array (..., n, n)
        Probabilities of transitions, real: no entry is negative, and rows add up to 1 within 1e-6. On the CPU.
    p : int
        Positive.

    Returns
    -------
    StochasticResult
        With `x`, `principal`, `distance`, `least` and `status`.

    Raises
    ------
    TypeError, ValueError
        The argument is wrong, or the matrix is not stochastic; the message names the row and its sum.

    References
    ----------
    Higham & Lin, Linear Algebra Appl. 435 (2011), 448-463, for the existence of roots; Lin, Roots of Stochastic
    Matrices and Fractional Matrix Powers, thesis, University of Manchester, 2011, for the two steps; Israel, Rosenthal
    & Wei, Math. Finance 11 (2001), 245-265, for credit ratings.

    Examples
    --------
    >>> import numpy as np
    >>> from matroot import gallery, stochastic_root
    >>> year = gallery.rating_transitions()
    >>> result = stochastic_root(year, 12)
    >>> bool(result.principal), bool((result.x >= 0).all()), round(float(result.distance), 5)
    (False, True, 0.00029)
    """
    p = check_degree(p)
    values, origin = take(a)
    backend = backend_of(values)
    if backend.sync_free():
        raise ValueError("stochastic_root works on the CPU: pass a.get()")
    shape, n = values.shape, values.shape[-1] if values.ndim else 0
    check_square(shape)
    check_numbers(values.dtype, origin)
    if values.dtype.kind == "c":
        raise TypeError(f"a must be real, got dtype {origin.dtype_name}")
    name = origin.dtype_name
    unit = unit_roundoff(name) if is_inexact(name) else 2.0**-53
    stack = values.reshape(math.prod(shape[:-2]), n, n).astype(np.float64)
    finite = np.isfinite(stack).all((-1, -2))
    _check_stochastic(stack, finite, shape, unit)
    P = stack / np.where(finite, 1, np.nan)[:, None, None]
    with backend.here(origin):  # one thread of BLAS, in the optimizer too
        roots = solve_power(np.where(finite[:, None, None], stack, np.eye(n)), Fraction(1, p), assume_a="gen")
        found = [_nearest(one, p, root, unit) for one, root in zip(P, roots.x, strict=True)]
    half = name in ("float16", "bfloat16")
    dtype = np.dtype("float32" if half else name if is_inexact(name) else "float64")
    x = np.array([one.x for one in found]).reshape(len(P), n, n)
    x = round_to(x.astype(dtype, copy=False), name)
    power = np.linalg.matrix_power(x.astype(np.float64), p)
    facts = {
        "principal": np.array([one.principal for one in found], bool),
        "distance": np.sqrt(((power - P) ** 2).sum((-1, -2))),
        "least": np.array([one.least for one in found], np.float64),
        "status": np.array([one.status for one in found], np.int8),
    }
    facts = {key: origin.give_back(value.reshape(shape[:-2]), as_input=False) for key, value in facts.items()}
    return StochasticResult(x=origin.give_back(x.reshape(shape)), p=p, **facts)


def _check_stochastic(stack: Matrix, finite: NDArray[np.bool_], shape: tuple[int, ...], unit: float) -> None:
    """Raise if a finite matrix has a negative entry, or a row that does not add up to 1."""
    n = shape[-1]
    sums = stack.sum(-1)
    allowed = max(SUM_ERROR, 4 * n * unit)
    with np.errstate(invalid="ignore"):
        bad = finite[:, None] & ((abs(sums - 1) > allowed) | (stack < 0).any(-1))
    if not bad.any():
        return
    i, row = (int(k) for k in np.argwhere(bad)[0])
    at = "".join(f"{k}, " for k in np.unravel_index(i, shape[:-2])) if len(shape) > 2 else ""
    least, total = stack[i, row].min(), sums[i, row]
    columns = (abs(stack[i].sum(0) - 1) <= allowed).all()
    advice = "the columns add up to 1: pass the transpose" if columns else "divide the rows by their sums"
    what = f"has the entry {least:.1e}" if least < 0 else f"adds up to {total:.8g}; {advice}"
    raise ValueError(f"a is not stochastic: row a[{at}{row}] {what}")


def _nearest(P: Matrix, p: int, root: Matrix, unit: float) -> _One:
    """Return a stochastic root of one matrix, or the nearest matrix found; `root` is the principal root or NaN."""
    n = len(P)
    if n == 0:
        return _One(P, True, 0.0, Status.CONVERGED)
    if not np.isfinite(P).all():
        return _One(P * np.nan, False, np.nan, Status.NONFINITE_INPUT)
    least = float(root.min())
    if least >= -NEGATIVE * n * unit:
        X = np.maximum(root, 0)
        X /= X.sum(-1, keepdims=True)
        exact = least >= -NEGATIVE * n * 2.0**-53
        if exact or np.linalg.norm(np.linalg.matrix_power(X, p) - P) <= NEAR * n * unit:
            return _One(X, True, least, Status.CONVERGED)
    start = projected(root if np.isfinite(least) else _rotated_root(P, p))
    X, status = refined(start, P, p)
    return _One(X, False, least, status)


def _rotated_root(P: Matrix, p: int) -> Matrix:
    """Return the real part of a complex root, if any, or a first step towards P from I."""
    turned = solve_power(P * np.exp(-1j * ANGLE), Fraction(1, p), assume_a="gen").x * np.exp(1j * ANGLE / p)
    if np.isfinite(turned).all():
        return np.asarray(turned.real)
    return np.eye(len(P)) + (P - np.eye(len(P))) / p


def projected(X: Matrix) -> Matrix:
    """Return the nearest stochastic matrix in the Frobenius norm, max(X - t, 0) with a t for every row."""
    n = X.shape[-1]
    ordered = -np.sort(-X, axis=-1)
    excess = np.cumsum(ordered, axis=-1) - 1
    kept = (ordered * np.arange(1, n + 1) > excess).sum(-1, keepdims=True)
    return np.asarray(np.maximum(X - np.take_along_axis(excess, kept - 1, -1) / kept, 0))


def refined(start: Matrix, P: Matrix, p: int) -> tuple[Matrix, Status]:
    """Reduce ||X^p - P||_F over X = Y / (row sums of Y), Y >= 0, which is stochastic, from a stochastic start."""
    n = len(P)
    gap = np.linalg.norm(np.linalg.matrix_power(start, p) - P) or 1.0

    def objective(y: Matrix) -> tuple[float, Matrix]:
        X, sums = shares(y.reshape(n, n))
        R = (np.linalg.matrix_power(X, p) - P) / gap
        G = gradient(X, R, p) / gap
        return float((R * R).sum() / 2), ((G - (G * X).sum(-1, keepdims=True)) / sums).ravel()

    found = deferred("scipy.optimize").minimize(
        objective,
        start.ravel(),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, None)] * (n * n),
        options={"maxiter": ITERATIONS, "maxfun": 2 * ITERATIONS, "ftol": 1e-14, "gtol": 0.0, "maxcor": 20},
    )
    X, _ = shares(found.x.reshape(n, n))
    return X, Status.MAX_ITER if found.status == 1 else Status.CONVERGED


def shares(Y: Matrix) -> tuple[Matrix, Matrix]:
    """Return rows divided by their sums, and the sums; a step may reach a row of zeros, which becomes one of ones."""
    empty = ~Y.any(-1, keepdims=True)
    Y = np.where(empty, 1.0, Y)
    sums = Y.sum(-1, keepdims=True)
    return Y / sums, sums


def gradient(X: Matrix, R: Matrix, p: int) -> Matrix:
    """Return the gradient sum_k (X^T)^k R (X^T)^(p-1-k) of <R, X^p> with respect to X, by doubling p."""
    Z = X.T
    D, power = R, Z
    for bit in bin(p)[3:]:
        D, power = D @ power + power @ D, power @ power
        if bit == "1":
            D, power = Z @ D + R @ power, Z @ power
    return D
