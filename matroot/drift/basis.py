"""The method that a `RootTracker` reports, and the full solve that computes its basis."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from matroot.backends.base import Backend
from matroot.drift.first_order import Basis, full
from matroot.methods.base import Array, Method, Problem, Raw
from matroot.methods.eigen import Eigen

#: The ways to compute a root.
WAYS = FIRST_ORDER, REFINED, FULL, FAILED = "first order", "refined", "full", "failed"
#: Products issued; a refined root includes the two products that showed that first order was not enough.
PRODUCTS = {FIRST_ORDER: 4, REFINED: 13}


@dataclass(frozen=True, repr=False)
class Warm(Method):
    """Method of a `RootTracker` in one update: the number of matrices computed each way."""

    first_order: int = 0
    refined: int = 0
    full: int = 0
    failed: int = 0

    name: ClassVar[str] = "warm"


@dataclass(frozen=True, repr=False)
class KeptEigen(Eigen):
    """`Eigen` that stores the basis of every matrix in `found`."""

    found: list[Basis] = field(default_factory=list, compare=False)

    def run(self, A: Array, problem: Problem, backend: Backend) -> Raw:
        keeper = _Keeper(backend)
        raw = super().run(A.copy(), problem, keeper)
        w, Q = keeper.found
        scale = np.ones(len(A)) if problem.scale is None else problem.scale
        ridge = np.zeros(len(A)) if raw.ridge is None else raw.ridge
        with np.errstate(all="ignore"):  # matrices without a root give NaN here; their bases are discarded
            s = problem.rational
            self.found[:] = [
                full(A[i].copy(), Q[i].copy(), w[i], float(ridge[i]), raw.x[i].copy(), s, float(scale[i]))
                for i in range(len(A))
            ]
        return raw


class _Keeper:
    """An backend that remembers the last eigendecomposition."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def eigh(self, A: Array) -> tuple[Array, Array]:
        # Use numpy's LAPACK for its precisions, since the products before and after use numpy's BLAS. If scipy has a
        # separate BLAS, the idle threads of one library spin and take cores from the other.
        wide = A.dtype.itemsize == (16 if A.dtype.kind == "c" else 8)
        w, Q = self.found = np.linalg.eigh(A) if wide else self._backend.eigh(A)
        return w, Q
