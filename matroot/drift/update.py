"""One update of a `RootTracker`: to first order where that is accurate enough, otherwise by a full solve."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from matroot._regularization import Regularization, Ridge
from matroot._status import USABLE, Status
from matroot.backends.arrays import round_to
from matroot.backends.linalg import add_to_diagonal, hermitian_part
from matroot.drift.basis import FAILED, FIRST_ORDER, FULL, PRODUCTS, REFINED, WAYS, KeptEigen
from matroot.drift.first_order import Basis, Moved, full_error, moved, refined, root, seen
from matroot.methods import conditioning
from matroot.methods.base import Array
from matroot.methods.hermitian import asymmetry
from matroot.pipeline.attempt import attempt
from matroot.pipeline.call import Job, Output
from matroot.pipeline.reference import factor
from matroot.pipeline.scaling import asymmetry_bar
from matroot.pipeline.status import certified, excess_of, judge, within_range

#: A refinement is tried up to this eta, and reduces it to about 0.7 eta^2.
REFINABLE = 0.25
#: A matrix that has changed too much k times in a row is solved in full 2^(k-1) - 1 times before first order is tried
#: again, but at most this many times.
LONGEST_WAIT = 31


class Update:
    """The arrays of one update over the flat batch of B matrices; chunks write their own parts."""

    def __init__(self, stack: Array, job: Job, bases: list[Basis | None], rtol: float, refining: bool) -> None:
        B, n, _ = stack.shape
        self.stack, self.job, self.rtol, self.refining = stack, job, rtol, refining
        self.s = job.problem.rational
        self.before, self.bases = bases, list(bases)
        self.out = Output.room(B, n, job)
        self.error = np.full(B, np.inf)  # bounds of the relative errors of the roots
        self.way = np.full(B, FAILED, dtype=f"U{max(map(len, WAYS))}")

    def solve(self, part: slice) -> None:
        """Solve a chunk from the kept bases, then the remaining matrices in full, then the failed with more ridge."""
        with np.errstate(all="ignore"):  # a large change may overflow in the units of the basis
            rows = np.array([i for i in range(part.start, part.stop) if not self._warm(i)], dtype=np.intp)
        rule = self.job.rule
        rows = self._full(rows, rule)
        if isinstance(rule, Ridge):
            for _ in range(rule.retries):
                rule = rule.raised()
                rows = self._full(rows, rule)

    def _warm(self, i: int) -> bool:
        """Compute the root from the kept basis, and return True if its error is within rtol."""
        basis = self.bases[i]
        if basis is None or basis.wait:
            return False
        a, job = self.stack[i], self.job
        gap = asymmetry(a)
        if gap:
            if gap > asymmetry_bar(job.origin) * float(abs(a).max()):
                return False
            a = hermitian_part(a.astype(np.result_type(a.dtype, job.dtype)))
        A = np.divide(a, basis.scale, dtype=np.result_type(a.dtype, job.dtype)).astype(job.dtype, copy=False)
        basis, at, way = self._seen(basis, A)
        if not at.error <= self.rtol:
            return False
        X = self.out.x[i]
        error = at.error + root(basis, at, self.s, basis.scale ** float(self.s), X, job.backend)
        if (rounded := round_to(X, job.origin.dtype_name)) is not X:
            X[...] = rounded
        if not (error <= self.rtol and self._certified(i, basis, at, A, X)):
            return False
        self.bases[i] = replace(basis, misses=0)
        self._note(i, way, error)
        self.out.n_products = max(self.out.n_products, PRODUCTS[way])
        return True

    def _seen(self, basis: Basis, A: Array) -> tuple[Basis, Moved, str]:
        """Express A in the kept basis or, if needed, in a refined basis; return basis, coordinates and way."""
        rule, s, backend = self.job.rule, self.s, self.job.backend
        at = moved(basis, A, rule, s, self.rtol, backend)
        if at.error <= self.rtol or not (self.refining and at.eta <= REFINABLE):
            return basis, at, FIRST_ORDER
        new = refined(basis, A.copy(), at, s, backend)
        if new is None or new.E is None:
            return basis, at, FIRST_ORDER
        return new, seen(new, new.E.copy(), new.w, rule, s, self.rtol, backend), REFINED

    def _certified(self, i: int, basis: Basis, at: Moved, A: Array, X: Array) -> bool:
        """Return True if the residual of the root is small enough; if so, write it and the facts to `out`."""
        job, n = self.job, len(A)
        wide = np.result_type(A.dtype, np.float64)
        A = A.astype(wide, order="C", copy=False)
        add_to_diagonal(A, at.ridge)
        X = np.multiply(X, basis.scale ** -float(self.s), dtype=wide)
        other = factor(A[None], self.s, None, "pos", job.backend)
        residual, certificate = conditioning.residual(A[None], X[None], self.s, job.backend, None, other)
        least, most = float(at.b.min()), float(at.b.max())
        cond = np.array([most / least])
        if not (certified(residual, cond, n, job)[0] and np.isfinite(X).all()):
            return False
        out, one = self.out, slice(i, i + 1)
        status = judge(np.zeros(1, np.int8), residual, cond, n, job)  # the rounding of A is no reason to solve in full
        status = within_range(status, abs(out.x[one]).max((-1, -2)), np.ones(1, bool), job)
        if status[0] not in USABLE:
            return False
        out.status[one] = status
        out.residual[i], out.cond[i], out.certificate = residual[0], cond[0], certificate
        out.lambda_max[i], out.lambda_min[i], out.ridge[i] = (v * basis.scale for v in (at.largest, least, at.ridge))
        return True

    def _full(self, rows: np.ndarray, rule: Regularization | None) -> np.ndarray:
        """Solve some rows in full, and return the rows without a good root."""
        if not len(rows):
            return rows
        method = KeptEigen()
        whole = len(rows) == rows[-1] + 1 - rows[0]
        at = slice(rows[0], rows[-1] + 1) if whole else rows
        one = attempt(self.stack[at], replace(self.job, method=method, rule=rule))
        usable = np.isin(one.status, USABLE)
        excess = excess_of(one.lambda_max, one.lambda_min, one.ridge, None, self.s)
        bound = full_error(one.cond, self.s, self.job.dtype, self.stack.shape[-1], excess)
        one.status[usable & ~(bound <= self.rtol)] = Status.ILL_CONDITIONED
        self.out.write(at, one)
        for j, i in enumerate(rows):
            self._note(i, *(FULL, float(bound[j])) if usable[j] else (FAILED, np.inf))
            if usable[j]:
                new = method.found[j]
                # The root of a singular matrix has eigenvalues whose powers are no numbers: nothing starts from them.
                self.bases[i] = _patient(new, self.before[i]) if np.isfinite(new.f).all() else None
        return rows[(one.status != Status.CONVERGED) & (one.status != Status.NONFINITE_INPUT)]

    def _note(self, i: int, way: str, error: float) -> None:
        self.way[i] = way
        self.error[i] = error + self.job.out_eps * self.stack.shape[-1] ** 0.5


def _patient(new: Basis, old: Basis | None) -> Basis:
    """Return the new basis with the wait that follows from the misses of the old basis."""
    if old is None:
        return new
    if old.wait:
        return replace(new, misses=old.misses, wait=old.wait - 1)
    misses = old.misses + 1
    return replace(new, misses=misses, wait=min(2 ** min(misses - 1, 30) - 1, LONGEST_WAIT))
