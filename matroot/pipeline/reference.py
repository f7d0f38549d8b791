"""Terms of comparison for certificates: powers by a second computation, and cut spectra in double precision."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from matroot._regularization import Regularization
from matroot.backends.base import Backend
from matroot.methods.base import Array, Changed
from matroot.methods.eigen import corrected
from matroot.pipeline.facts import inverses


def factor(A: Array, s: Fraction | float, changed: Changed | None, assume_a: str, backend: Backend) -> Array | None:
    """Return the factor that `residual` uses in place of A': its inverse, or A'^s for an irrational s; else None.

    `changed` is the change of single eigenvalues of A, in double precision, by a regularization.
    """
    if isinstance(s, Fraction):
        if s >= 0 or s.numerator == -1:
            return None
        if changed is None:
            return backend.xp.linalg.inv(A) if backend.sync_free() else inverses(A)
    with np.errstate(all="ignore"):  # overflow gives a status
        return real_power(A, -1.0 if isinstance(s, Fraction) else s, changed, assume_a, backend)


def measured(changed: Changed, A: Array, rule: Regularization, scale: Array, backend: Backend) -> Changed:
    """Return a change of eigenvalues found in narrower arithmetic as the rule makes it in the dtype of A.

    A cut is relative to the largest eigenvalue. In float32 both, and the eigenvalues that are cut, have errors that the
    root shares with them, so that the certificate would not see them. Rayleigh quotients of the computed vectors have
    errors of second order. One product.
    """
    xp = backend.xp
    Q = changed.Q.astype(A.dtype)
    Q = Q / xp.sqrt((abs(Q) ** 2).sum(-2))[:, None, :]
    w = (Q.conj() * backend.matmul(A, Q)).sum(-2).real
    least = rule.least(w[:, -1], scale)[:, None]
    kept = xp.where(changed.dropped, 0, xp.maximum(w, least))
    return Changed(Q, kept - w, kept, least, changed.dropped)


def real_power(A: Array, s: float, changed: Changed | None, assume_a: str, backend: Backend) -> Array:
    """Compute A'^s by a decomposition whose rounding errors are independent of the method's.

    Repeating the same decomposition would repeat its errors, and the residual would not show them. Reversing rows and
    columns (transposing a general matrix) keeps the matrix exact, and changes the rounding errors. The rule is applied
    again: w + delta would carry the errors of the first decomposition, which may have been in float32.
    """
    xp = backend.xp
    if assume_a == "gen":
        from matroot.methods.schur_newton import schur_newton

        return xp.stack([schur_newton(one.T.copy(), s).x.T for one in A])
    reverse = xp.ascontiguousarray(A[:, ::-1, ::-1])
    w, Q = backend.eigh(reverse.copy())
    if changed is not None:
        w = xp.where(changed.dropped, 0, xp.maximum(w, changed.least))
    positive = w > 0
    w = xp.where(positive, w, 1)
    half = Q * (w ** (s / 2) * positive)[:, None, :]
    X = backend.matmul(half, half.conj().swapaxes(-1, -2))
    if changed is None:
        corrected(X, reverse, Q, xp.where(positive, w, 0), xp.zeros(len(A)), s, backend)
    return X[:, ::-1, ::-1]
