# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""A symmetric matrix to the basis of a large tridiagonal one and back, by panels of reflectors, in either precision.

Q is the product of the reflectors that LAPACK's reduction left; `large.kernel` tells how matrices lie in memory. Of
symmetric matrices the upper triangle is used. A panel changes the block from its first row and column on by one product
and one update, and what is above that block from one side.
"""

from __future__ import annotations

import numpy as np

from matroot.backends.cpu.large.blas import LOWER, NO, TRANSPOSED, at, gemm, symm, syr2k
from matroot.backends.cpu.large.kernel import panel_of, triangular_factor
from matroot.backends.cpu.tridiagonal.stage import stage


@stage()
def product(blas, left, right, m, n, k, factor, A, i, j, B, x, y, more, C, r, c):
    """C = factor op(A) op(B) + more C, from the given entries on, as BLAS sees them."""
    a, b, d, kind = at(A, i, j), at(B, x, y), at(C, r, c), A.dtype.type
    gemm(blas, left, right, m, n, k, kind(factor), a, A.shape[1], b, B.shape[1], kind(more), d, C.shape[1])


@stage()
def turn_panel(blas, S, V, W, Y, T, G, M, H, D, start, n, k, back):
    """Multiply S by a panel V with the factor T from both sides: P^T S P for P = I - V T V^T, or P S P^T."""
    m, kind = n - start, S.dtype.type
    op, other = (TRANSPOSED, NO) if back else (NO, TRANSPOSED)
    block, v, w, y = at(S, start, start), at(V, 0, start), at(W, 0, start), at(Y, 0, start)
    one, zero, ls, lv = kind(1.0), kind(0.0), S.shape[1], V.shape[1]
    symm(blas, LOWER, m, k, one, block, ls, v, lv, zero, w, lv)
    product(blas, TRANSPOSED, NO, k, k, m, 1.0, V, 0, start, W, 0, start, 0.0, M, 0, 0)
    product(blas, NO, op, k, k, k, 1.0, M, 0, 0, T, 0, 0, 0.0, H, 0, 0)
    product(blas, other, NO, k, k, k, 1.0, T, 0, 0, H, 0, 0, 0.0, M, 0, 0)
    product(blas, NO, op, m, k, k, 1.0, W, 0, start, T, 0, 0, 0.0, Y, 0, start)
    product(blas, NO, NO, m, k, k, -0.5, V, 0, start, M, 0, 0, 1.0, Y, 0, start)
    syr2k(blas, m, k, -one, v, lv, y, lv, one, block, ls)
    if start > 0:
        product(blas, TRANSPOSED, NO, k, start, m, 1.0, V, 0, start, S, 0, start, 0.0, D, 0, 0)
        product(blas, other, NO, k, start, k, 1.0, T, 0, 0, D, 0, 0, 0.0, G, 0, 0)
        product(blas, NO, NO, m, start, k, -1.0, V, 0, start, G, 0, 0, 1.0, S, 0, start)


@stage()
def turn_basis(blas, A, tau, S, width, back):
    """S = Q^T S Q, or Q S Q^T, for the reflectors in the rows of A."""
    n = A.shape[0]
    V = np.zeros((width, A.shape[1]), S.dtype)
    W, Y = np.zeros_like(V), np.zeros_like(V)
    T, M, H = np.zeros((width, width), S.dtype), np.zeros((width, width), S.dtype), np.zeros((width, width), S.dtype)
    G, D = np.zeros((n, width), S.dtype), np.zeros((n, width), S.dtype)
    panels = (n - 2) // width + 1
    for number in range(panels):
        p0 = (panels - 1 - number if back else number) * width
        k, start = min(width, n - 1 - p0), p0 + 1
        V[:, :start] = 0
        panel_of(A, V, 0, p0, p0 + k)
        product(blas, TRANSPOSED, NO, k, k, n - start, 1.0, V, 0, start, V, 0, start, 0.0, M, 0, 0)
        triangular_factor(M, tau[p0 : p0 + k], T)
        turn_panel(blas, S, V, W, Y, T, G, M, H, D, start, n, k, back)
