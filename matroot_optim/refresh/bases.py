"""Eigenbases of statistics for SOAP, with a certificate: decomposed, or refined from the old basis.

matroot has no public eigenvectors with a certificate, so the decomposition is the array library's own.

"qr" is one step of orthogonal iteration, as published: A Q = Q' R, with the columns of Q sorted by falling Rayleigh
quotients first, because the iteration converges to this order. Column k of the result continues column k of Q, so what
belongs to a column, like SOAP's second moment, stays where it is.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from matroot import Status
from matroot_optim.arrays import Array, cast, dtype_name, is_torch, like, linalg, namespace


def new_bases(A: Array, Q: Array | None, task: str, dtype: str) -> tuple[Array, dict[str, Any]]:
    """Return orthonormal bases of a stack of symmetric matrices, in the dtype of A, and their facts.

    Parameters
    ----------
    A : array (k, n, n)
    Q : array (k, n, n), optional
        Orthonormal columns; needed for "qr".
    task : {"eigh", "qr"}
    dtype : str
        Of the arithmetic.

    Returns
    -------
    Q : array (k, n, n)
        Orthonormal columns.
    facts : dict of str to array (k,)
        "residual" is ``||Q^T Q - I||_F / sqrt(n)`` of the basis returned; for "eigh" it is at least
        ``||A Q - Q diag(w)||_F / ||A||_F``. "lambda_max" and "cond" are of the Rayleigh quotients. "n_iter" is 1 for
        "qr" and 0 for "eigh".
    """
    with np.errstate(all="ignore"):
        return _new_bases(A, Q, task, dtype)


def _new_bases(A: Array, Q: Array | None, task: str, dtype: str) -> tuple[Array, dict[str, Any]]:
    own, xp = dtype_name(A), namespace(A)
    n, infinity = A.shape[-1], float("inf")
    usable = abs(A.sum((-2, -1))) < infinity  # False for NaN too
    eye = like(_eye(n, own), A)
    if not isinstance(A, np.ndarray) or not usable.all():
        A = xp.where(usable[:, None, None], A, eye)
    A = cast(A, dtype)
    try:
        basis, w, error = _refined(A, cast(Q, dtype), own) if task == "qr" else _decomposed(A, own)
    except (np.linalg.LinAlgError, RuntimeError):  # no convergence: the residual has the answer refused and counted
        w = (A * cast(eye, dtype)).sum(-1)
        basis, error = xp.zeros_like(cast(A, own)) + eye, 0.0 * w[:, 0] + infinity
    wide = cast(basis, dtype)
    gram = xp.matmul(xp.matrix_transpose(wide), wide) - cast(eye, dtype_name(wide))
    skew = xp.sqrt(_squares(gram) / n)
    residual = xp.where(skew > error, skew, error)
    largest, smallest = w.max(-1), w.min(-1)
    if is_torch(w):
        largest, smallest = largest.values, smallest.values
    tiny = n * float(np.finfo(own).eps) * largest
    zero = 0.0 * largest
    facts = {
        "residual": xp.where(usable, residual, zero + infinity),
        "cond": xp.where(smallest > tiny, largest / smallest, zero + infinity),
        "bits_lost": zero,
        "lambda_max": largest,
        "ridge": zero,
        "status": xp.where(usable, zero, zero + int(Status.NONFINITE_INPUT)),
        "n_iter": zero + (task == "qr"),
    }
    return basis, facts


@lru_cache(maxsize=64)
def _eye(n: int, dtype: str) -> Any:
    return np.eye(n, dtype=dtype)


def _decomposed(A: Array, own: str) -> tuple[Array, Array, Array]:
    """Return eigenvectors by falling eigenvalues, the eigenvalues, and the relative error of their equation."""
    xp = namespace(A)
    w, Q = linalg(A).eigh(A)
    falling = like(np.arange(A.shape[-1])[::-1].copy(), A)
    Q, w = cast(Q[..., falling], own), w[..., falling]
    wide = cast(Q, dtype_name(A))
    E = xp.matmul(A, wide) - wide * w[:, None, :]
    return Q, w, xp.sqrt(_squares(E) / _squares(A))


def _squares(x: Array) -> Array:
    """Return the sum of the squares of each matrix."""
    return np.einsum("kij,kij->k", x, x) if isinstance(x, np.ndarray) else (x * x).sum(-1).sum(-1)


def _refined(A: Array, Q: Array, own: str) -> tuple[Array, Array, Array]:
    """Return the refined bases and the Rayleigh quotients of the old ones."""
    xp = namespace(A)
    P = xp.matmul(A, Q)
    w = (Q * P).sum(-2)
    order = (-w).argsort(-1)
    places = order.argsort(-1)
    number = like(np.arange(len(A))[:, None], A)
    rows = _orthonormal_rows(P[number, :, order])  # indexing transposes
    return cast(xp.matrix_transpose(rows[number, places]), own), w, 0.0 * w[:, 0]


def _orthonormal_rows(A: Array) -> Array:
    """Return Q^T of A^T = Q R for a stack of square matrices; numpy's are overwritten."""
    if not isinstance(A, np.ndarray):
        xp = namespace(A)
        return xp.matrix_transpose(linalg(A).qr(xp.matrix_transpose(A))[0])
    from scipy.linalg import get_lapack_funcs  # 0.1 s of an import that only SOAP needs

    factor, form = get_lapack_funcs(("geqrf", "orgqr"), (A,))  # numpy's own QR is in double precision alone
    room = 32 * A.shape[-1]  # for panels of 32 columns: LAPACK's wrappers have room for 3
    for k, matrix in enumerate(A):
        reflectors, tau, _, _ = factor(matrix.T, lwork=room, overwrite_a=True)
        A[k] = form(reflectors, tau, lwork=room, overwrite_a=True)[0].T
    return A
