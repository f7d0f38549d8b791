"""Roots by the Hermitian eigendecomposition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from matroot.methods.base import Array, Changed, Method, Problem, Raw
from matroot.result import Status


@dataclass(frozen=True, repr=False)
class Eigen(Method):
    """A = Q L Q^H, X = Q L^s Q^H = (Q L^{s/2}) (Q L^{s/2})^H.

    The reference: any real exponent, every regularization exactly, the exact condition number, and no iteration
    that could fail. Prefer it for singular or very ill-conditioned matrices, and on the CPU for n above a few
    hundred. Cost: the decomposition (about 9 n^3 flops and more, much of it bound by memory) and one symmetric
    rank-k product (n^3 flops). SciPy's counterpart is ``Q @ diag(w**s) @ Q.T`` after ``scipy.linalg.eigh``.

    References
    ----------
    Higham, Functions of Matrices, SIAM 2008, sec. 4.5.
    """

    name: ClassVar[str] = "eigen"

    def run(self, A: Array, problem: Problem, engine: Any) -> Raw:
        xp = engine.xp
        B, n, _ = A.shape
        s = float(problem.s)
        rule = problem.regularization
        w, Q = engine.eigh(A)
        largest = w[:, -1]

        kept, ridge = w, xp.zeros_like(largest)
        if rule is not None:
            kept, ridge = rule.spectrum(w, problem.scale)
        if s > 0:  # the semidefinite boundary belongs to the domain, rounding errors included
            rounding = n * np.finfo(w.dtype).eps * largest[:, None]
            kept = xp.where((kept < 0) & (kept >= -rounding), 0, kept)
        if s > 0 or (rule is not None and rule.keeps_null_space):
            outside = (kept < 0).any(-1)
        else:
            outside = (kept <= 0).any(-1)

        positive = kept > 0
        half = xp.where(positive, kept, 1) ** (s / 2)
        X = engine.rank_k(Q * (half * positive if s != 0 else half)[:, None, :])

        sizes = xp.abs(kept)
        if rule is not None and rule.keeps_null_space:
            smallest = xp.where(positive, kept, largest[:, None]).min(-1)
        else:
            smallest = sizes.min(-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            cond = xp.where(smallest > 0, sizes.max(-1) / smallest, xp.inf)
        status = xp.where(outside, int(Status.NOT_POSITIVE), int(Status.CONVERGED))
        status = xp.where(xp.isfinite(w).all(-1), status, int(Status.DIVERGED)).astype(xp.int8)
        changed = None
        if rule is not None and rule.needs == "spectrum":
            changed = Changed(Q, kept - w, (kept == 0) & rule.keeps_null_space)
        return Raw(
            x=X,
            status=status,
            n_iter=xp.zeros(B, xp.int64),
            n_products=1,
            cond=cond.astype(xp.float64),
            lambda_max=largest.astype(xp.float64),
            lambda_min=kept[:, 0].astype(xp.float64),
            ridge=ridge.astype(xp.float64),
            changed=changed,
        )
