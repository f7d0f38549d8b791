"""Shifted systems of a sparse matrix by factorization, with a bound of the smallest eigenvalue from its inertia."""

from __future__ import annotations

from typing import Any

import numpy as np

from matroot._status import Status
from matroot.applied.bounds import Approximation, Wanted, bound_of, nothing
from matroot.applied.krylov import Krylov
from matroot.applied.operators import Operator, extremes
from matroot.applied.shifted import Floats, Rule, rule
from matroot.backends.loading import deferred
from matroot.methods.conditioning import start_vector

Array = Any

#: Steps of Lanczos with the inverse; its largest Ritz value is right to some per cent then.
STEPS = 12
#: The bound that inertia has to confirm, as a share of the estimate.
SHARE = 0.9
#: An eigenvalue below this many units of rounding, times the bound of the largest, may be 0.
SINGULAR = 8
#: Halvings of a bound that was not confirmed.
TRIES = 30
#: One operation of a sparse factorization costs about as much as one of a product; the vectors of a step of Lanczos are
#: read and written some ten times.
PASSES = 10


class Factored:
    """A + t I = L D L^H for a sparse A, by SuperLU without pivoting; the signs of D are those of the eigenvalues."""

    def __init__(self, A: Operator) -> None:
        sparse = deferred("scipy.sparse")
        self.A, self.count = A, 0
        self.eye = sparse.identity(A.n, dtype=A.matrix.dtype, format="csc")

    def __call__(self, t: float) -> tuple[Any, int]:
        """Return the factors of A + t I and the number of negative eigenvalues; None and 1 if they fail."""
        self.count += 1
        linalg = deferred("scipy.sparse.linalg")
        shifted = (self.A.matrix + t * self.eye).tocsc() if t else self.A.matrix
        try:
            options = {"SymmetricMode": True}
            factors = linalg.splu(shifted, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options)
        except RuntimeError:  # exactly singular
            return None, 1
        pivots = factors.U.diagonal().real
        kept = bool((factors.perm_r == factors.perm_c).all()) and bool(np.isfinite(pivots).all())
        return factors, int((pivots <= 0).sum()) if kept else 1

    def lowest(self, above: float) -> tuple[float, float]:
        """Return a lower bound of the eigenvalues and an estimate of the smallest; the bound is 0 if there is none."""
        least = SINGULAR * self.A.unit * above
        factors, negative = self(0.0)
        if negative:
            return 0.0, -least if self(least)[1] else 0.0
        krylov = Krylov(factors.solve, start_vector(self.A.n)[:, None].astype(self.A.matrix.dtype), np)
        for _ in range(min(STEPS, self.A.n)):
            krylov.step(self.A.unit)
        top = extremes(krylov)[1] if krylov.finite else 0.0
        estimate = 1 / top if top > 0 else 0.0
        low = SHARE * estimate
        for _ in range(TRIES):
            if low <= least:
                break
            if self(-low)[1] == 0:
                return low - self.A.unit * above, estimate
            low /= 2
        return 0.0, estimate

    def sums(self, B: Array, rule: Rule, above: float) -> tuple[Array, Floats, Floats] | None:
        """Return sum_j w_j x_j, and per column what the residuals of the systems and rounding may add to its error."""
        A, rows = self.A.matrix, self.A.product
        X = np.zeros(B.shape, self.A.dtype)
        truncated, rounded = np.zeros((2, B.shape[1]))
        split = B.dtype.kind == "c" and A.dtype.kind != "c"
        for t, w, weight in zip(rule.t, rule.w, rule.times, strict=True):
            factors, negative = self(float(t))
            if negative:
                return None
            if split:
                x = factors.solve(np.ascontiguousarray(B.real)) + 1j * factors.solve(np.ascontiguousarray(B.imag))
            else:
                x = factors.solve(B.astype(A.dtype, copy=False))
            self.A.count += B.shape[1]
            truncated += weight * _norms(B - rows(x) - t * x)
            rounded += weight * (above + t) * _norms(x)
            X += w * x
        if rule.s > 0:
            rounded += above * _norms(X)
            self.A.count += B.shape[1]
            X = rows(X)
        return X, truncated, rounded


def by_poles(A: Operator, factored: Factored, V: Array, wanted: Wanted) -> Approximation:
    """Factorize A + t I for every pole t."""
    low, smallest = factored.lowest(wanted.above)
    if smallest < 0 or (wanted.s < 0 and low == 0):
        return nothing(V, Status.NOT_POSITIVE if smallest < 0 else Status.SINGULAR, smallest)
    moved = 0.0
    if low == 0:  # A + least I is semidefinite, which is as much as rounding lets one know
        low = SINGULAR * A.unit * wanted.above
        moved = 2 * low
        A.add(moved)
    poles = rule(wanted.s, low, wanted.above + moved, wanted.accuracy)
    poles = poles._replace(below=moved ** max(float(wanted.s), 0.0) if moved else 0.0)
    sums = factored.sums(V, poles, wanted.above + moved)
    if sums is None:
        return nothing(V, Status.STAGNATED, smallest)
    y, truncated, rounded = sums
    bound = bound_of(poles, _norms(y), truncated, rounded, A, "bound")
    return Approximation(y, bound, len(poles.t), Status.CONVERGED, smallest)


def cheaper_steps(A: Operator, columns: int, systems: int) -> float:
    """Return for how many steps Lanczos costs no more than `systems` factorizations, from a bound of their fill.

    The factors of A in the order of Cuthill and McKee stay within its profile; minimum degree, which is used, has less.
    """
    csgraph = deferred("scipy.sparse.csgraph")
    rows = A.matrix.tocsr()
    order = csgraph.reverse_cuthill_mckee(rows, symmetric_mode=True)
    rows = rows[order][:, order]
    rows.sort_indices()
    full = np.diff(rows.indptr) > 0
    first = np.arange(A.n)
    first[full] = rows.indices[rows.indptr[:-1][full]]
    width = np.maximum(np.arange(A.n) - first, 0).astype(float) + 1
    factor = (width * width).sum() + 4 * columns * width.sum()
    return float(systems * factor / (2 * columns * (2 * rows.nnz + PASSES * A.n)))


def _norms(X: Array) -> Floats:
    return np.asarray(np.linalg.norm(X, axis=0))
