"""A power of a matrix by a second computation, whose rounding errors are not those of the first."""

from __future__ import annotations

from typing import Any

from matroot.methods.base import Changed
from matroot.methods.eigen import corrected

Array = Any


def real_power(A: Array, t: float, changed: Changed | None, assume_a: str, engine: Any) -> Array:
    """A'^t, t > 0, to certify roots for whose exponent no product of whole powers tells the residual.

    The same decomposition once more would repeat its errors, and the residual would not show them. Rows and columns in
    reverse order (the transpose, for a general matrix) are the same matrix to the last bit, and round differently.

    Parameters
    ----------
    A : array (B, n, n), float64 or complex128
    t : float
    changed : Changed or None
        How a regularization changed single eigenvalues of A.
    assume_a : {"pos", "gen"}
    engine : engine

    Returns
    -------
    array (B, n, n)
    """
    xp = engine.xp
    if assume_a == "gen":
        from matroot.methods.schur_newton import schur_newton

        return xp.stack([schur_newton(one.T.copy(), t).x.T for one in A])
    reverse = xp.ascontiguousarray(A[:, ::-1, ::-1])
    w, Q = engine.eigh(reverse.copy())
    if changed is not None:
        w = xp.where(changed.dropped, 0, w + changed.delta)
    w = xp.maximum(w, 0)
    half = Q * (w ** (t / 2))[:, None, :]
    X = engine.matmul(half, half.conj().swapaxes(-1, -2))
    if changed is None:
        corrected(X, reverse, Q, w, xp.zeros(len(A)), t, engine)
    return X[:, ::-1, ::-1]
