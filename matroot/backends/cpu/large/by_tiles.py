# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""The root Q F Q^T of a real matrix on one thread, by products of tiles.

BLAS packs its arguments, which takes as long as the arithmetic where one of them has a panel's few rows. The tiles read
matrices as they lie: at n = 512 and 1024 they are 1.5 times as fast as OpenBLAS's kernels for AVX-512, and more than
twice as fast as those for AVX2.
"""

from __future__ import annotations

import numpy as np

from matroot.backends.cpu.large.panels import diagonal_block, move_left, panel_of, triangular_factor
from matroot.backends.cpu.large.rows import REGISTER, turn
from matroot.backends.cpu.large.tiles import COUNT, ROWS, add_product, product
from matroot.backends.cpu.tridiagonal.stage import stage


@stage()
def times_symmetric(S, at, step, V, Y, k, first, n, wide):
    """Y = S V for rows and columns `first` to n of S, of which the upper triangle is read, and blocks on the diagonal.

    V and Y have k columns and the rows of S, of which the first one is at `at`.
    """
    height = COUNT * wide
    for i in range(first, n, height):
        rows = min(height, n - i)
        product(S, i * step + i, step, 1, V, i * k, k, Y, i * k, k, rows, k, n - i, wide, False)
        add_product(S, at + i, 1, step, V, first * k, k, Y, i * k, k, rows, k, i - first, wide, False)


@stage()
def turned(P, p, step, Q, q, other, rows, columns, wide):
    """Write the transpose of a part of P to Q; both are whole registers long and wide."""
    for i in range(0, rows, wide):
        for j in range(0, columns, wide):
            turn(P, p + i * step + j, step, Q, q + j * other + i, other)


@stage()
def assemble(R, A, tau, q, g, f):
    """Write the upper triangle of X = Q F Q^T to A, which may be R, by panels of two registers, the last ones first.

    Panels begin where registers do. Reflector r, in R, acts on the rows from r on; that of row 0, and those beyond n,
    are 0. With V for the panel, in columns, and S for the part of X that is there, Q S Q^T for Q = I - V T V^T is
    S - V W^T - W V^T with W = Y T^T - V M / 2, Y = S V and M = T V^T Y T^T. Z holds V^T, W^T, V^T once more, and, since
    both become less their product with V times T^T V^T, Y^T and U^T. What registers hold beyond n stays beyond n.
    """
    (n, K), step = q.shape, A.shape[1]
    wide, half = np.int64(REGISTER // A.itemsize), A.dtype.type(0.5)
    k, end, more = 2 * wide, -(-n // wide) * wide, -(-K // ROWS) * ROWS
    Z, W, Y, U = np.zeros((4 * k + more, step), A.dtype), k * step, 3 * k * step, 4 * k * step
    V, SV = np.zeros(end * k, A.dtype), np.zeros(end * k, A.dtype)
    G, H, T = np.zeros((k + more, k), A.dtype), np.zeros((k + more) * k, A.dtype), np.zeros((k, k), A.dtype)
    F, x, scales = np.zeros((K, k), A.dtype), np.empty((K + 1, k), A.dtype), np.zeros(k, A.dtype)
    X, z, flat = A.reshape(A.size), Z.reshape(Z.size), F.reshape(F.size)
    gram, t = G.reshape(G.size), T.reshape(T.size)
    for start in range((n - 1) // k * k, -1, -k):
        m, width, stop, first = n - start, end - start, min(start + k, n), max(start, 1)
        Z[0], scales[:] = 0, 0
        panel_of(R, n, Z, first - start, first - 1, stop - 1)
        for r in range(first, stop):
            scales[r - start] = tau[r - 1]
        diagonal_block(q, g, f, x, F, A, start, stop)
        if stop < n:
            product(flat, 0, 1, k, z, U + stop, step, X, start * step + stop, step, k, end - stop, K, wide, False)
        if start > 0:
            move_left(q, Z[4 * k : 4 * k + K], start, stop)
        for i in range(k):
            for j in range(start, end):
                Z[2 * k + i, j] = Z[i, j]
        turned(z, start, step, V, start * k, k, k, width, wide)
        times_symmetric(X, start * step, step, V, SV, k, start, n, wide)
        turned(SV, start * k, k, z, Y + start, step, width, k, wide)
        product(z, start, step, 1, V, start * k, k, gram, 0, k, k, k, m, wide, False)
        triangular_factor(G, scales, T)
        product(z, Y + start, step, 1, V, start * k, k, gram, 0, k, k + more, k, m, wide, False)
        for i in range(k):
            for j in range(k):
                T[i, j], G[i, j] = -T[i, j], half * G[i, j]
        product(gram, 0, k, 1, t, 0, k, H, 0, k, k + more, k, k, wide, False)
        add_product(H, 0, k, 1, z, start, step, z, Y + start, step, k + more, width, k, wide, False)
        product(t, 0, 1, k, z, Y + start, step, z, W + start, step, k, width, k, wide, False)
        add_product(z, start, 1, step, z, W + start, step, X, start * step + start, step, m, width, 2 * k, wide, True)
