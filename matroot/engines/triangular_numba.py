"""Loops over the elements of one (quasi-)triangular block; imported by `triangular` on first use.

Every routine solves U X + X V = C for diagonal blocks U, V of one matrix by substitution, one block column at a time. Two
blocks a I + mu J and d I + nu J, J = [[0, 1], [-1, 0]], act on a 2 x 2 matrix as two complex numbers: with s = a + d,
the part that commutes with J is divided by s + i (mu + nu), the other by s - i (mu - nu). Nothing is ever eliminated.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Matrix = NDArray[Any]
jit = njit(cache=True, error_model="numpy", fastmath={"contract"}, nogil=True)


def pencil(U: Matrix) -> tuple[Matrix, Matrix]:
    """(mu, delta) of every diagonal block [[a, b], [c, a]] = D (a I + mu J) D^{-1}, D = diag(1, delta); mu = 0 if 1 x 1."""
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
    l = j + 1
    i = i1 - 1
    while i >= i0:
        s = U[i, i] + d
        if mu[i] == 0:
            x, y = _divide(C[i, j], C[i, l] * eta, s, nu)
            y /= eta
            C[i, j], C[i, l] = x, y
            for k in range(i0, i):
                u = U[k, i]
                C[k, j] -= u * x
                C[k, l] -= u * y
            i -= 1
        else:
            h = i - 1
            delta_h = delta[h]
            c11, c12 = C[h, j] / 2, C[h, l] * (eta / 2)
            c21, c22 = C[i, j] / (2 * delta_h), C[i, l] * (eta / (2 * delta_h))
            zr, zi = _divide(c11 + c22, c12 - c21, s, mu[i] + nu)
            wr, wi = _divide(c11 - c22, c12 + c21, s, nu - mu[i])
            x11, x12 = zr + wr, (zi + wi) / eta
            x21, x22 = (wi - zi) * delta_h, (zr - wr) * (delta_h / eta)
            C[h, j], C[h, l], C[i, j], C[i, l] = x11, x12, x21, x22
            for k in range(i0, h):
                u, v = U[k, h], U[k, i]
                C[k, j] -= u * x11 + v * x21
                C[k, l] -= u * x12 + v * x22
            i -= 2


@jit
def _column(U, mu, delta, C, i0, i1, j):
    """One block column: subtract nothing, substitute; returns the number of columns done."""
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
def sylvester_block(U, mu, delta, C, i0, i1, j0, j1):
    """Overwrite C[i0:i1, j0:j1] by X with U_II X + X U_JJ = C."""
    j = j0
    while j < j1:
        width = 1 if mu[j] == 0 else 2
        for c in range(j, j + width):
            for l in range(j0, j):
                v = U[l, c]
                for k in range(i0, i1):
                    C[k, c] -= C[k, l] * v
        j += _column(U, mu, delta, C, i0, i1, j)
