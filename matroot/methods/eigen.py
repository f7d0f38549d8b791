"""Roots by the Hermitian eigendecomposition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from matroot._status import Status
from matroot.backends.base import Backend
from matroot.methods.base import Array, Changed, Method, Problem, Raw

#: Up to this n the correction costs little beside the decomposition.
REFINED = 128
#: Relative gap below which a divided difference is replaced by the derivative; as a factor of a small correction it
#: needs two digits only.
CLOSE = 0.02
#: Relative size of the correction up to which first order is an improvement.
SMALL = 0.5
#: LAPACK's eigenvalues and subspaces have errors up to this times eps lambda_max: 19 was measured, for two clusters.
LAPACK_ERROR = 20
#: The share of rtol that one uncorrected eigenvalue may use up.
SHARE = 1 / 8


@dataclass(frozen=True, repr=False)
class Eigen(Method):
    """A = Q L Q^H, X = Q L^s Q^H = (Q L^{s/2}) (Q L^{s/2})^H.

    The reference: any real exponent, every regularization exactly, the exact condition number, and no iteration
    that could fail. Prefer it for singular or very ill-conditioned matrices, and on the CPU for n above a few
    hundred. The cost is the decomposition (about 9 n^3 flops and more, much of it bound by memory) and one symmetric
    rank-k product (n^3 flops). SciPy's counterpart is ``Q @ diag(w**s) @ Q.T`` after ``scipy.linalg.eigh``.

    LAPACK's eigenvalues have errors up to some 10 eps lambda_max, which give 10 eps kappa / p in the root. One
    first-order correction in the computed basis reduces the factor 10 to about 1, for four products: see `corrected`.
    If an rtol is given, only the small eigenvalues that need the correction are corrected: see `sharpened`.

    Parameters
    ----------
    refine : bool or None
        True: correct all eigenvalues. None: up to n = 128, where the correction is cheap compared to the decomposition,
        correct all if the full precision of the arithmetic is wanted, and those that need it if an rtol is given.

    References
    ----------
    Higham, Functions of Matrices, SIAM 2008, sec. 4.5.
    """

    refine: bool | None = None

    name: ClassVar[str] = "eigen"
    decomposes: ClassVar[bool] = True
    on_device: ClassVar[bool] = True

    def run(self, A: Array, problem: Problem, backend: Backend) -> Raw:
        xp = backend.xp
        n_matrices, n, _ = A.shape
        s = float(problem.s)
        rule = problem.regularization
        refine = self.refine
        if refine is None:
            refine = n <= REFINED and problem.rtol is None and np.finfo(A.dtype).eps <= 4 * problem.out_eps
        refine = refine and n > 1 and (rule is None or not rule.changes_spectrum)
        rtol = problem.rtol if self.refine is None and (rule is None or not rule.changes_spectrum) else None
        w, Q = backend.eigh(A.copy() if refine or rtol else A)
        largest = w[:, -1]

        kept, ridge = w, xp.zeros_like(largest)
        if rule is not None:
            kept, ridge = rule.spectrum(w, problem.scale)
        if s > 0:  # semidefinite matrices are in the domain, also if rounding made an eigenvalue negative
            rounding = (problem.rounding(A) * largest)[:, None]
            kept = xp.where((kept < 0) & (kept >= -rounding), 0, kept)
        if s > 0 or (rule is not None and rule.keeps_null_space):
            outside = (kept < 0).any(-1)
        else:
            outside = (kept <= 0).any(-1)

        positive = kept > 0
        half = xp.where(positive, kept, 1) ** (s / 2)
        X = backend.rank_k(Q * (half * positive if s != 0 else half)[:, None, :])
        if refine:
            kept = corrected(X, A, Q, kept, ridge, s, backend)
        elif rtol and not backend.sync_free():
            for i in np.flatnonzero(~outside):
                sharpened(X[i], A[i], Q[i], kept[i], ridge[i], s, rtol)

        sizes = xp.abs(kept)
        if rule is not None and rule.keeps_null_space:
            smallest = xp.where(positive, kept, sizes.max(-1)[:, None]).min(-1)
        else:
            smallest = sizes.min(-1)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            cond = xp.where(smallest > 0, sizes.max(-1) / smallest, xp.inf)
        if rule is not None and rule.keeps_null_space:
            cond = xp.where(positive.any(-1), cond, 1)  # if no eigenvalue is kept, the root of 0 is exactly 0
        status = xp.where(outside, int(Status.NOT_POSITIVE), int(Status.CONVERGED))
        status = xp.where(xp.isfinite(w).all(-1), status, int(Status.DIVERGED)).astype(xp.int8)
        changed = None
        if rule is not None and rule.changes_spectrum:
            least = rule.least(largest, problem.scale)[:, None]
            changed = Changed(Q, kept - w, kept, least, (kept == 0) & rule.keeps_null_space)
        return Raw(
            x=X,
            status=status,
            n_iter=xp.zeros(n_matrices, xp.int64),
            n_products=5 if refine else 1,
            cond=cond.astype(xp.float64),
            lambda_max=largest.astype(xp.float64),
            lambda_min=kept.min(-1).astype(xp.float64),
            ridge=ridge.astype(xp.float64),
            changed=changed,
            hermitian=not refine,
        )


def corrected(X: Array, A: Array, Q: Array, w: Array, ridge: Array, s: float, backend: Backend) -> Array:
    """Correct X = Q w^s Q^H in place to first order in the error of Q and w; return the corrected eigenvalues (B, n).

    With B = Q^H (A + ridge I) Q, which is almost diagonal: X = Q F Q^H with F_ii = B_ii^s and, off the diagonal, F_ij =
    f[B_ii, B_jj] B_ij, f[.,.] the divided difference of x^s (Daleckii-Krein; Higham 2008, thm. 3.11). The error is of
    second order in B_ij / sqrt(B_ii B_jj); if these are not small, the matrix keeps its uncorrected root, and its
    eigenvalues w of A + ridge I. Else they are the diagonal of B.
    """
    xp = backend.xp
    n = A.shape[-1]
    Qh = Q.conj().swapaxes(-1, -2)
    B = backend.matmul(Qh, backend.matmul(A, Q))
    diagonal = B.reshape(len(B), n * n)[:, :: n + 1]
    b = diagonal.real + ridge[:, None]
    diagonal[...] = 0
    usable = (b > 0).all(-1) & (w > 0).all(-1)
    b = xp.where(usable[:, None], b, 1)
    root = xp.sqrt(b)
    off = xp.abs(B) / (root[:, :, None] * root[:, None, :])
    usable &= off.max((-1, -2)) <= SMALL

    f = b**s
    gap = b[:, :, None] - b[:, None, :]
    close = xp.abs(gap) < CLOSE * b[:, :, None]
    with np.errstate(over="ignore", invalid="ignore"):
        slope = xp.where(close, (s * f / b)[:, :, None], (f[:, :, None] - f[:, None, :]) / xp.where(close, 1, gap))
        B *= slope
    diagonal[...] = f
    usable &= xp.isfinite(B).all((-1, -2))
    xp.copyto(X, backend.matmul(backend.matmul(Q, B), Qh), where=usable[:, None, None])
    return xp.where(usable[:, None], b, w)


def sharpened(X: Array, A: Array, Q: Array, w: Array, ridge: float, s: float, rtol: float) -> None:
    """Correct one matrix like `corrected`, in place, but only the m smallest eigenvalues, whose error exceeds rtol.

    An error delta = 20 eps lambda_max of an eigenvalue changes X by |s| lambda^(s-1) delta. The k >= m eigenvectors
    that are coupled to the m eigenvalues by more than rtol are corrected too. The cost is (2 m + 2 k m / n) / n
    products: less than one at cond 1e4 for geometric spectra, where a fifth of the eigenvalues needs the correction.

    w are the eigenvalues of A + ridge I, ascending, and are corrected too.
    """
    delta = LAPACK_ERROR / 2 * np.finfo(w.dtype).eps * w[-1]
    allowed = SHARE * rtol
    with np.errstate(all="ignore"):  # an eigenvalue may be 0
        m = int((abs(s) * delta * w ** (s - 1) > allowed * max(w[0] ** s, w[-1] ** s)).sum())
    if m == 0:
        return
    k = max(m, int((w * allowed < delta).sum()))
    some = Q[:, :k]
    B = (some[:, :m].conj().T @ A) @ some
    b = w[:k].copy()
    b[:m] = B.diagonal().real + ridge
    if not (b > 0).all():
        return
    np.fill_diagonal(B, 0)
    if not (abs(B) / np.sqrt(b[:m, None] * b)).max() <= SMALL:
        return
    f = b**s
    gap = b[:m, None] - b
    close = abs(gap) < CLOSE * b[:m, None]
    B *= np.where(close, s * f / b, (f[:m, None] - f) / np.where(close, 1, gap))
    np.fill_diagonal(B, f[:m] - w[:m] ** s)
    B[:, :m] /= 2  # the m x m block is in both halves of the sum below
    half = some[:, :m] @ (B @ some.conj().T)
    X += half + half.conj().T
    w[:m] = b[:m]
