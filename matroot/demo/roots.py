"""The three computations of the demonstration, each with a check that is independent of the library."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matroot import Floor, PseudoInverse, RootResult, gallery, solve
from matroot._selection import METHODS
from matroot.cli.by_hand import ROWS
from matroot.cli.compare import forward_error, timed

Array = NDArray[Any]


@dataclass(frozen=True)
class Statistic:
    """One Kronecker factor of one layer."""

    layer: int
    side: str  # "L" or "R"
    matrix: Array  # (n, n)

    @property
    def name(self) -> str:
        """Name for the reader, counting layers from 1."""
        return f"layer {self.layer + 1} {'left' if self.side == 'L' else 'right'}"

    def spectrum(self) -> Array:
        """Compute the eigenvalues over the largest, descending; rounding may make zeros slightly negative."""
        w = np.linalg.eigvalsh(self.matrix)[::-1]
        return np.asarray(w / w[0])


@dataclass(frozen=True)
class MethodRow:
    """Result of one method for all statistics: the sum of the seconds, and the worst of every other number."""

    method: str
    dtype: str
    seconds: float
    products: int
    residual: float
    forward_error: float  # against eigenvalues in float64
    cond: float
    bits_lost: float
    status: Array  # (k,), a `Status` per statistic
    roots: list[Array]  # one per statistic


@dataclass(frozen=True)
class HandRow:
    """The same roots as one would write them without matroot, in float64."""

    name: str
    seconds: float
    forward_error: float


def by_hand(statistics: Sequence[Statistic], p: int, ridge: float, exact: Sequence[Array]) -> Iterator[HandRow]:
    """Compute the roots with numpy and with SciPy, and compare them with `exact`."""
    ridged = [S.matrix + ridge * np.linalg.norm(S.matrix, 2) * np.eye(len(S.matrix)) for S in statistics]
    for name, method in ROWS.items():
        calls = [method(A, -1 / p, None, False) for A in ridged]
        found, seconds = timed(lambda: [call() for call in calls])  # noqa: B023  (called at once)
        yield HandRow(name, seconds, _worst(map(forward_error, found, exact)))


def inverse_roots(
    statistics: Sequence[Statistic], p: int, ridge: float, pairs: Sequence[tuple[str, str]]
) -> Iterator[MethodRow]:
    """Compute ``A^{-1/p}`` of every statistic, by each pair of method and precision; equal sizes form one batch."""
    groups: dict[int, list[int]] = {}
    for i, S in enumerate(statistics):
        groups.setdefault(len(S.matrix), []).append(i)
    stacks = [np.stack([statistics[i].matrix for i in where]) for where in groups.values()]
    reference = [result.x for result in _solve_all(stacks, p, "eigen", ridge, "float64")]
    for method, dtype in pairs:
        results, seconds = timed(partial(_solve_all, stacks, p, method, ridge, dtype))
        found: dict[int, Array] = {}
        for where, result in zip(groups.values(), results, strict=True):
            found.update(zip(where, result.x, strict=True))
        yield MethodRow(
            method=method,
            dtype=dtype,
            seconds=seconds,
            products=max(r.n_products for r in results),
            residual=_worst(r.residual for r in results),
            forward_error=_worst(map(forward_error, [r.x for r in results], reference)),
            cond=_worst(r.cond for r in results),
            bits_lost=_worst(r.bits_lost for r in results),
            status=np.concatenate([r.status for r in results]),
            roots=[found[i] for i in range(len(statistics))],
        )


def applicable(statistics: Sequence[Statistic], p: int, ridge: float, dtype: str) -> list[str]:
    """List the methods that support symmetric matrices, this p and this precision; others raise ValueError."""
    smallest = min((S.matrix for S in statistics), key=len)
    found = []
    for method in METHODS:
        try:
            _solve_all([smallest], p, method, ridge, dtype)
        except ValueError:
            continue
        found.append(method)
    return found


def _solve_all(stacks: Sequence[Array], p: int, method: str, ridge: float, dtype: str) -> list[RootResult[Any]]:
    return [solve(A, p, method=method, regularization=ridge, compute_dtype=dtype) for A in stacks]


def _worst(values: Any) -> float:
    return max(float(np.max(v)) for v in values)


@dataclass(frozen=True)
class Whitening:
    """Pixels whitened under one rule, and the distance of their covariance from theory."""

    rule: PseudoInverse | Floor
    pixels: Array  # (N, n), whitened
    variances: Array  # (n,) eigenvalues of the whitened covariance, descending
    promise: str
    error: float  # largest entry of the whitened covariance minus the promised one


def whiten(X: Array, rule: PseudoInverse | Floor) -> Whitening:
    """
    Whiten the rows of X, and compare the covariance of the result with theory.

    With `PseudoInverse` the covariance must be the projector that drops the pixels which never change. With `Floor`
    it must be ``f(C)``, ``f(x) = min(1, x/floor)``: the identity on every direction above the floor.
    """
    C, centred = covariance(X)
    pixels = centred @ solve(C, 2, regularization=rule).x
    after, _ = covariance(pixels)
    if isinstance(rule, PseudoInverse):
        promise = "identity on the pixels that change, else 0"
        expected = np.diag((X.std(axis=0) > 0).astype(float))
    else:
        promise = "identity above the floor, x/floor below"
        w, Q = np.linalg.eigh(C)
        expected = (Q * np.clip(w / (rule.relative * w[-1]), None, 1)) @ Q.T
    error = float(np.abs(after - expected).max())
    return Whitening(rule, pixels, np.linalg.eigvalsh(after)[::-1], promise, error)


def covariance(X: Array) -> tuple[Array, Array]:
    """Return the sample covariance of the rows of X, and the centred rows."""
    centred = X - X.mean(axis=0)
    return centred.T @ centred / (len(X) - 1), centred


@dataclass(frozen=True)
class Monthly:
    """The monthly root M of yearly transitions P, and its deviations from a matrix of probabilities."""

    P: Array
    M: Array
    result: RootResult[Any]
    error: float  # ||M^12 - P||_F / ||P||_F
    row_sum_error: float
    negative: int  # entries that are negative by more than rounding
    lowest: tuple[float, str]  # the lowest entry, and between which ratings
    mended_error: float  # largest entry of M^12 - P after setting negatives to 0 and scaling the rows
    known_error: float  # relative error of a root that is known exactly, expm(Q/12)


def monthly_root(seed: int = 0) -> Monthly:
    """Compute the principal 12th root of the yearly ratings, and of a matrix whose root is known; check both."""
    P = gallery.rating_transitions()
    result = solve(P, 12, inverse=False, assume_a="gen")
    M = result.x
    i, j = np.unravel_index(np.argmin(M), M.shape)
    mended = np.clip(M, 0, None)
    mended /= mended.sum(axis=1, keepdims=True)
    year, root = gallery.embeddable_transitions(len(P), rng=seed)
    month = solve(year, 12, inverse=False, assume_a="gen").x
    return Monthly(
        P=P,
        M=M,
        result=result,
        error=float(np.linalg.norm(np.linalg.matrix_power(M, 12) - P) / np.linalg.norm(P)),
        row_sum_error=float(np.abs(M.sum(axis=1) - 1).max()),
        negative=int((M < -len(M) * np.finfo(float).eps).sum()),
        lowest=(float(M[i, j]), f"{gallery.RATINGS[i]} to {gallery.RATINGS[j]}"),
        mended_error=float(np.abs(np.linalg.matrix_power(mended, 12) - P).max()),
        known_error=float(forward_error(month, root(1 / 12))),
    )


@dataclass(frozen=True)
class Findings:
    """The results that the report and the picture show."""

    network: str  # one sentence
    p: int
    ridge: float
    images: Array  # (N, 64)
    before: list[Statistic]
    after: list[Statistic]  # of the gradients multiplied by the roots
    rows: list[MethodRow]
    others: list[HandRow]
    whitenings: list[Whitening]  # PseudoInverse, Floor
    month: Monthly
