# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""Loops over the elements of one (quasi-)triangular block; imported by `triangular` on first use.

Every routine solves U X + X V = C for diagonal blocks U, V of one matrix by substitution, one block column at
a time. Two blocks a I + mu J and d I + nu J, J = [[0, 1], [-1, 0]], act on a 2 x 2 matrix as two complex
numbers: with s = a + d, the part that commutes with J is divided by s + i (mu + nu), the part that
anticommutes by s - i (mu - nu). Nothing is ever eliminated.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from matroot.engines.compiled import compiled

Matrix = NDArray[Any]
jit = compiled(error_model="numpy", fastmath={"contract"}, nogil=True)


def pencil(U: Matrix) -> tuple[Matrix, Matrix]:
    """(mu, delta) of the diagonal blocks [[a, b], [c, a]] = D (a I + mu J) D^{-1}, D = diag(1, delta).

    A 1 x 1 block has mu = 0 and delta = 1.
    """
    n = U.shape[0]
    real = U.real.dtype
    mu, delta = np.zeros(n, real), np.ones(n, real)
    if not np.iscomplexobj(U):
        i = np.flatnonzero(np.diagonal(U, -1))
        b, c = U[i, i + 1], U[i + 1, i]
        root_b, root_c = np.sqrt(np.abs(b)), np.sqrt(np.abs(c))
        mu[i] = mu[i + 1] = np.copysign(root_b * root_c, b)
        delta[i] = root_c / root_b
    return mu, delta


@jit
def _divide(x, y, s, t):  # (x + i y) / (s + i t)
    d = s * s + t * t
    return (x * s + y * t) / d, (y * s - x * t) / d


@jit
def _substitute(U, mu, delta, C, i0, i1, j, d):
    """Solve (U[i0:i1, i0:i1] + d) x = C[i0:i1, j] in place; a 1 x 1 block on the right."""
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
            x, y = _divide(C[h, j], C[i, j] / delta[h], U[i, i] + d, -mu[i])
            y *= delta[h]
            C[h, j], C[i, j] = x, y
            for k in range(i0, h):
                C[k, j] -= U[k, h] * x + U[k, i] * y
            i -= 2


@jit
def _substitute_pair(U, mu, delta, C, i0, i1, j, d, nu, eta):
    """The same for the two columns j, j + 1 over a 2 x 2 block d I + nu J scaled by diag(1, eta)."""
    r = j + 1
    i = i1 - 1
    while i >= i0:
        s = U[i, i] + d
        if mu[i] == 0:
            x, y = _divide(C[i, j], C[i, r] * eta, s, nu)
            y /= eta
            C[i, j], C[i, r] = x, y
            for k in range(i0, i):
                u = U[k, i]
                C[k, j] -= u * x
                C[k, r] -= u * y
            i -= 1
        else:
            h = i - 1
            delta_h = delta[h]
            c11, c12 = C[h, j] / 2, C[h, r] * (eta / 2)
            c21, c22 = C[i, j] / (2 * delta_h), C[i, r] * (eta / (2 * delta_h))
            zr, zi = _divide(c11 + c22, c12 - c21, s, mu[i] + nu)
            wr, wi = _divide(c11 - c22, c12 + c21, s, nu - mu[i])
            x11, x12 = zr + wr, (zi + wi) / eta
            x21, x22 = (wi - zi) * delta_h, (zr - wr) * (delta_h / eta)
            C[h, j], C[h, r], C[i, j], C[i, r] = x11, x12, x21, x22
            for k in range(i0, h):
                u, v = U[k, h], U[k, i]
                C[k, j] -= u * x11 + v * x21
                C[k, r] -= u * x12 + v * x22
            i -= 2


@jit
def _column(U, mu, delta, C, i0, i1, j):
    """Substitute in the block column that begins at j; returns its width."""
    if mu[j] == 0:
        _substitute(U, mu, delta, C, i0, i1, j, U[j, j])
        return 1
    _substitute_pair(U, mu, delta, C, i0, i1, j, U[j, j], mu[j], delta[j])
    return 2


@jit
def sqrt_block(U, mu, delta, j0, j1):
    """Overwrite U[j0:j1, j0:j1], whose diagonal blocks hold the roots already, by the square root."""
    j = j0
    while j < j1:
        j += _column(U, mu, delta, U, j0, j, j)


@jit
def _subtract(U, C, i0, i1, j0, j, c):
    """C[i0:i1, c] -= C[i0:i1, j0:j] U[j0:j, c], four columns at a time to spare loads."""
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
def sylvester_block(U, mu, delta, C, i0, i1, j0, j1):
    """Overwrite C[i0:i1, j0:j1] by X with U_II X + X U_JJ = C."""
    j = j0
    while j < j1:
        _subtract(U, C, i0, i1, j0, j, j)
        if mu[j] != 0:
            _subtract(U, C, i0, i1, j0, j, j + 1)
        j += _column(U, mu, delta, C, i0, i1, j)
