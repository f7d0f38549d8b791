# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""Loops over the elements of one (quasi-)triangular block; imported by `triangular` on first use.

Every routine solves U X + X V = C for diagonal blocks U, V of one matrix by substitution, one block column at
a time. A 2 x 2 block is a I + M with M^2 = -mu^2 I, so that the inverse of X -> U X + X V is a polynomial in M
and N (`_pair`). There is no elimination and no balancing of blocks: in a nearly defective block the
off-diagonal elements differ by many powers of ten, and mixing their multiples would lose as many digits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from matroot.backends.cpu.compiled import compiled

Matrix = NDArray[Any]
jit = compiled(error_model="numpy", fastmath={"contract"}, nogil=True)


def frequencies(U: Matrix) -> Matrix:
    """Return mu of the diagonal blocks [[a, b], [c, a]] with eigenvalues a +- i mu; 0 for a 1 x 1 block."""
    mu = np.zeros(U.shape[0], U.real.dtype)
    if not np.iscomplexobj(U):
        i = U.diagonal(-1).nonzero()[0]
        if len(i):
            mu[i] = mu[i + 1] = np.sqrt(np.abs(U[i, i + 1])) * np.sqrt(np.abs(U[i + 1, i]))
    return mu


@jit
def _single(x, y, s, mu, b, c):
    """Solve (s I + M) (x, y) = given, M = [[0, b], [c, 0]] and M^2 = -mu^2 I."""
    size = max(abs(s), mu)
    s, mu, b, c = s / size, mu / size, b / size, c / size
    d = (s * s + mu * mu) * size
    return (s * x - b * y) / d, (s * y - c * x) / d


@jit
def _pair(c11, c12, c21, c22, s, mu, nu, b, c, f, g):
    """Solve s X + M X + X N = C, M = [[0, b], [c, 0]] and M^2 = -mu^2 I, N = [[0, f], [g, 0]] and N^2 = -nu^2 I.

    X = (s (s^2 + mu^2 + nu^2) C + 2 s M C N - (s^2 + mu^2 - nu^2) M C - (s^2 - mu^2 + nu^2) C N) / d, where d is the
    product of the squared moduli of s + i (mu + nu) and s + i (mu - nu).
    """
    size = max(abs(s), mu + nu)
    s, mu, nu, b, c, f, g = s / size, mu / size, nu / size, b / size, c / size, f / size, g / size
    plus, minus = mu + nu, mu - nu
    d = (s * s + plus * plus) * (s * s + minus * minus) * size
    k = s * (s * s + mu * mu + nu * nu)
    left, right = s * s + plus * minus, s * s - plus * minus
    s *= 2
    return (
        (k * c11 + s * (b * c22 * g) - left * (b * c21) - right * (c12 * g)) / d,
        (k * c12 + s * (b * c21 * f) - left * (b * c22) - right * (c11 * f)) / d,
        (k * c21 + s * (c * c12 * g) - left * (c * c11) - right * (c22 * g)) / d,
        (k * c22 + s * (c * c11 * f) - left * (c * c12) - right * (c21 * f)) / d,
    )


@jit
def _substitute(U, mu, C, i0, i1, j):
    """Solve (U[i0:i1, i0:i1] + U[j, j]) x = C[i0:i1, j] in place; a 1 x 1 block on the right."""
    d = U[j, j]
    i = i1 - 1
    while i >= i0:
        if mu[i] == 0:
            x = C[i, j] / (U[i, i] + d)
            C[i, j] = x
            for k in range(i0, i):
                C[k, j] -= U[k, i] * x
            i -= 1
        else:
            h = i - 1
            x, y = _single(C[h, j], C[i, j], U[i, i] + d, mu[i], U[h, i], U[i, h])
            C[h, j], C[i, j] = x, y
            for k in range(i0, h):
                C[k, j] -= U[k, h] * x + U[k, i] * y
            i -= 2


@jit
def _substitute_pair(U, mu, C, i0, i1, j):
    """Do the work of `_substitute` for the two columns j, j + 1 over a 2 x 2 block."""
    r = j + 1
    d, nu, f, g = U[j, j], mu[j], U[j, r], U[r, j]
    i = i1 - 1
    while i >= i0:
        s = U[i, i] + d
        if mu[i] == 0:
            x, y = _single(C[i, j], C[i, r], s, nu, g, f)  # the transpose
            C[i, j], C[i, r] = x, y
            for k in range(i0, i):
                u = U[k, i]
                C[k, j] -= u * x
                C[k, r] -= u * y
            i -= 1
        else:
            h = i - 1
            x11, x12, x21, x22 = _pair(C[h, j], C[h, r], C[i, j], C[i, r], s, mu[i], nu, U[h, i], U[i, h], f, g)
            C[h, j], C[h, r], C[i, j], C[i, r] = x11, x12, x21, x22
            for k in range(i0, h):
                u, v = U[k, h], U[k, i]
                C[k, j] -= u * x11 + v * x21
                C[k, r] -= u * x12 + v * x22
            i -= 2


@jit
def _column(U, mu, C, i0, i1, j):
    """Substitute in the block column that begins at j; returns its width."""
    if mu[j] == 0:
        _substitute(U, mu, C, i0, i1, j)
        return 1
    _substitute_pair(U, mu, C, i0, i1, j)
    return 2


@jit
def sqrt_block(U, mu, j0, j1):
    """Overwrite U[j0:j1, j0:j1], whose diagonal blocks hold the roots already, by the square root."""
    j = j0
    while j < j1:
        j += _column(U, mu, U, j0, j, j)


@jit
def _subtract(U, C, i0, i1, j0, j, c):
    """Update C[i0:i1, c] -= C[i0:i1, j0:j] U[j0:j, c], four columns at a time to save loads."""
    m = j0
    while m + 4 <= j:
        v0, v1, v2, v3 = U[m, c], U[m + 1, c], U[m + 2, c], U[m + 3, c]
        for k in range(i0, i1):
            C[k, c] -= (C[k, m] * v0 + C[k, m + 1] * v1) + (C[k, m + 2] * v2 + C[k, m + 3] * v3)
        m += 4
    while m < j:
        v0 = U[m, c]
        for k in range(i0, i1):
            C[k, c] -= C[k, m] * v0
        m += 1


@jit
def sylvester_block(U, mu, C, i0, i1, j0, j1):
    """Overwrite C[i0:i1, j0:j1] by X with U_II X + X U_JJ = C."""
    j = j0
    while j < j1:
        _subtract(U, C, i0, i1, j0, j, j)
        if mu[j] != 0:
            _subtract(U, C, i0, i1, j0, j, j + 1)
        j += _column(U, mu, C, i0, i1, j)


@jit
def _shifted_solve(R, mu, t, X):
    """Overwrite X[:, k] by (R + t[k] I)^{-1} X[:, k]."""
    i = R.shape[0] - 1
    while i >= 0:
        if mu[i] == 0:
            X[i] /= R[i, i] + t
            for k in range(i):
                u = R[k, i]
                for j in range(t.size):
                    X[k, j] -= u * X[i, j]
            i -= 1
        else:
            h = i - 1
            for j in range(t.size):
                X[h, j], X[i, j] = _single(X[h, j], X[i, j], R[i, i] + t[j], mu[i], R[h, i], R[i, h])
            for k in range(h):
                u, v = R[k, h], R[k, i]
                for j in range(t.size):
                    X[k, j] -= u * X[h, j] + v * X[i, j]
            i -= 2


@jit
def _shifted_solve_adjoint(R, mu, t, X):
    """Overwrite X[:, k] by (R + t[k] I)^{-H} X[:, k]."""
    i, n = 0, R.shape[0]
    while i < n:
        for k in range(i):
            u = np.conj(R[k, i])
            for j in range(t.size):
                X[i, j] -= u * X[k, j]
        if mu[i] == 0:
            X[i] /= np.conj(R[i, i]) + t
            i += 1
        else:
            r = i + 1
            for k in range(i):
                u = R[k, r]
                for j in range(t.size):
                    X[r, j] -= u * X[k, j]
            for j in range(t.size):
                X[i, j], X[r, j] = _single(X[i, j], X[r, j], R[i, i] + t[j], mu[i], R[r, i], R[i, r])
            i += 2


@jit
def inverse_norms(R, mu, t, v, steps):
    """Estimate the 2-norm of (R + t[k] I)^{-1}, from below, by power steps from the vector v."""
    X = np.empty((R.shape[0], t.size), R.dtype)
    norms = np.zeros(t.size)
    for k in range(t.size):
        for i in range(len(v)):  # not X[:, k] = v: numba compiles the message of its error in two seconds
            X[i, k] = v[i]
    for step in range(2 * steps):
        if step % 2:
            _shifted_solve_adjoint(R, mu, t, X)
        else:
            _shifted_solve(R, mu, t, X)
        for k in range(t.size):
            norms[k] = np.linalg.norm(np.ascontiguousarray(X[:, k]))
        X /= norms
    return norms
