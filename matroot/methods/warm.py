"""Warm roots: to first order in a kept eigenbasis, in a refined one, or cold, as each matrix needs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from matroot.conditioning import forward_error_bound
from matroot.methods.base import Array, Method, Problem, Raw
from matroot.methods.eigen import Eigen
from matroot.methods.first_order import Basis, Moved, eigen_error, full, moved, refined, root, seen
from matroot.result import Status

#: A refinement is tried up to this eta; it leaves about 0.7 eta^2.
REFINABLE = 0.25
#: A matrix that has moved too far k times in a row is solved in full 2^(k-1) - 1 times, and at most this often,
#: before first order is tried again.
LONGEST_WAIT = 31
#: How a root came about.
WAYS = FIRST_ORDER, REFINED, FULL, FAILED = "first order", "refined", "full", "failed"
#: Products issued; the first two of a refined root are those that found first order wanting.
PRODUCTS = {FIRST_ORDER: 4, REFINED: 13}


@dataclass(frozen=True, repr=False)
class Warm(Method):
    """What a `RootTracker` did in one update: how many matrices went which way.

    Parameters
    ----------
    first_order, refined, full, failed : int
        Matrices whose root was taken to first order in the basis at hand, in that basis after refining it, and by
        a full solve; and those that have none.
    """

    first_order: int = 0
    refined: int = 0
    full: int = 0
    failed: int = 0

    name: ClassVar[str] = "warm"


@dataclass(frozen=True, repr=False)
class WarmStep(Eigen):
    """One update of a few matrices: `Eigen` where there is no basis, or the matrix has moved too far from it.

    Attributes
    ----------
    bases : list of Basis or None
        One for each matrix of the stack; left as they are.
    trying, refining : bool
        Whether first order is tried, and whether a basis may be refined.
    news : dict
        What a matrix's basis is to be from now on, where that changes; by its index.
    ways : dict
        How each root came about.
    errors : dict
        Bound of the relative error of each root.
    """

    bases: list[Basis | None] = field(default_factory=list)
    trying: bool = True
    refining: bool = False
    news: dict[int, Basis] = field(default_factory=dict)
    ways: dict[int, str] = field(default_factory=dict)
    errors: dict[int, float] = field(default_factory=dict)

    def run(self, A: Array, problem: Problem, engine: Any) -> Raw:
        scale = np.ones(len(A)) if problem.scale is None else problem.scale
        warm = {}
        for i, basis in enumerate(self.bases):
            if self.trying and basis is not None and not basis.wait:
                units = float(scale[i]) / basis.scale
                with np.errstate(all="ignore"):  # a jump may leave the range
                    found = self._warm(i, A[i] if units == 1 else A[i] * units, basis, problem, engine)
                if found is not None:
                    warm[i] = (*found, units)
        rows = [i for i in range(len(A)) if i not in warm]
        cold = self._cold(A if not warm else A[rows], rows, problem, scale[rows], engine) if rows else None
        if cold is not None and not warm:
            return cold
        products = PRODUCTS[REFINED if REFINED in self.ways.values() else FIRST_ORDER]
        return _merged(A, cold, rows, warm, float(problem.s), products, engine)

    def _warm(self, i: int, A: Array, basis: Basis, problem: Problem, engine: Any) -> tuple[Array, Moved] | None:
        """The root of A, in the units of the basis, or None if that is not to be had within rtol."""
        rule, s, rtol = problem.regularization, float(problem.s), problem.rtol or 0.0
        at, way = moved(basis, A, rule, s, rtol, engine), FIRST_ORDER
        if not at.error <= rtol:
            if not (self.refining and at.eta <= REFINABLE):
                return None
            new = refined(basis, A.copy(), at, s, engine)
            if new is None:
                return None
            at, basis, way = seen(new, new.E.copy(), new.w, rule, s, rtol, engine), new, REFINED
            if not at.error <= rtol:
                return None
            self.news[i] = new
        elif basis.misses:
            self.news[i] = replace(basis, misses=0)
        self.ways[i], self.errors[i] = way, at.error
        return root(basis, at, problem.p, problem.inverse, engine), at

    def _cold(self, A: Array, rows: list[int], problem: Problem, scale: Array, engine: Any) -> Raw:
        keeper = _Keeper(engine)
        raw = Eigen(self.refine).run(A.copy(), replace(problem, scale=scale), keeper)
        w, Q = keeper.found
        unit = eigen_error(A.dtype, A.shape[-1])
        for j, i in enumerate(rows):
            self.ways[i], self.errors[i] = FULL, np.inf
            if raw.status[j] == Status.CONVERGED and raw.cond is not None and raw.ridge is not None:
                self.errors[i] = float(forward_error_bound(raw.cond[j], problem.s, unit))
                new = full(
                    A[j].copy(), Q[j], w[j], float(raw.ridge[j]), raw.x[j].copy(), float(problem.s), float(scale[j])
                )
                self.news[i] = _patient(new, self.bases[i])
        return raw


def _patient(new: Basis, old: Basis | None) -> Basis:
    """The new basis, with the patience that the old one's misses ask for."""
    if old is None:
        return new
    if old.wait:
        return replace(new, misses=old.misses, wait=old.wait - 1)
    misses = old.misses + 1
    return replace(new, misses=misses, wait=min(2 ** min(misses - 1, 30) - 1, LONGEST_WAIT))


class _Keeper:
    """An engine that remembers the last eigendecomposition."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def eigh(self, A: Array) -> tuple[Array, Array]:
        # numpy's LAPACK where it has the precision, since the products around it are numpy's: where scipy brings a
        # BLAS of its own, the idle threads of the one spin and take the cores from the other.
        wide = A.dtype.itemsize == (16 if A.dtype.kind == "c" else 8)
        w, Q = self.found = np.linalg.eigh(A) if wide else self._engine.eigh(A)
        return w, Q


def _merged(
    A: Array, cold: Raw | None, rows: list[int], warm: dict[int, Any], s: float, products: int, engine: Any
) -> Raw:
    """Cold and warm roots as one stack."""
    xp = engine.xp
    B = len(A)
    raw = Raw(
        x=xp.empty_like(A),
        status=xp.zeros(B, xp.int8),
        n_iter=xp.zeros(B, xp.int64),
        n_products=products,
        cond=xp.ones(B),
        lambda_max=xp.zeros(B),
        lambda_min=xp.zeros(B),
        ridge=xp.zeros(B),
    )
    numbers = ("x", "status", "cond", "lambda_max", "lambda_min", "ridge")
    if cold is not None:
        for name in numbers:
            getattr(raw, name)[rows] = getattr(cold, name)
    for i, (X, at, units) in warm.items():
        if units != 1:
            X *= units**-s
        least, most = float(at.b.min()), float(at.b.max())
        for name, value in zip(
            numbers, (X, 0, most / least, at.largest / units, least / units, at.ridge / units), strict=True
        ):
            getattr(raw, name)[i] = value
    return raw
