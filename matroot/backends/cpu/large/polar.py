# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""Polar factors of a tall real matrix A by the root M of its Gram matrix G: U = A M, H = G M, and their certificate.

A is taken in strips of rows that stay in the second-level cache with their products. So every strip of U is rounded and
certified where it is made, and no whole matrix is there in float64 but those of order n.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from numba.types import float64

from matroot.backends.cpu.compiled import compiled
from matroot.backends.cpu.large.rows import REGISTER
from matroot.backends.cpu.large.tiles import ROWS, add_product, mirror, product
from matroot.backends.cpu.tridiagonal.stage import stage

#: Rows of a strip, and numbers by which they are longer: at a distance of a power of two they push each other out.
HEIGHT, PADDING = 128, 8


@stage()
def strip_of(A, first, rows, S):
    """Copy `rows` rows of A to S in float64, and zeros below them up to the next whole tile."""
    n = A.shape[1]
    for i in range(rows):
        for j in range(n):
            S[i, j] = A[first + i, j]
    for i in range(rows, -(-rows // ROWS) * ROWS):
        for j in range(n):
            S[i, j] = 0.0


@stage(float64)
def gram_of(A, G):
    """Do the work of `gram`."""
    (m, n), wide = A.shape, np.int64(REGISTER // 8)
    step = n + PADDING
    S, g = np.empty((HEIGHT, step)), G.reshape(G.size)
    s = S.reshape(S.size)
    for first in range(0, m, HEIGHT):
        rows = min(HEIGHT, m - first)
        strip_of(A, first, rows, S)
        if first == 0:
            product(s, 0, 1, step, s, 0, step, g, 0, n, n, n, rows, wide, True)
        else:
            add_product(s, 0, 1, step, s, 0, step, g, 0, n, n, n, rows, wide, True)
    mirror(g, n, n, wide)
    squares = 0.0
    for j in range(n):
        squares += G[j, j]
    return squares


@stage()
def commuting(G, M, H, both):
    """H = G M, symmetric to the last bit; the right half of `both`, whose left half is V, gets H V."""
    n, wide = len(G), np.int64(REGISTER // 8)
    X, g, m, b = np.empty((n, n)), G.reshape(G.size), M.reshape(M.size), both.reshape(both.size)
    x = X.reshape(X.size)
    product(g, 0, n, 1, m, 0, n, x, 0, n, n, n, n, wide, True)
    mirror(x, n, n, wide)
    for i in range(n):
        for j in range(n):
            H[i, j] = X[i, j]
            X[i, j] = H[i, j]
    product(x, 0, n, 1, b, 0, 2 * wide, b, wide, 2 * wide, n, wide, n, wide, False)


@stage(float64, float64)
def factors_of(A, X, N, G, M, V, U, H):
    """Do the work of `factors`."""
    (m, n), wide = A.shape, np.int64(REGISTER // 8)
    step, twice, adds, whole = n + PADDING, 2 * wide, len(X) > 0, len(H) > 0
    S, Y, both, P = np.empty((HEIGHT, step)), np.empty((HEIGHT, step)), np.empty((n, twice)), np.empty((HEIGHT, twice))
    Q, W, K = np.empty((HEIGHT, wide)), np.zeros((n, wide)), np.zeros((2 * n, wide))
    s, y, b, p = S.reshape(S.size), Y.reshape(Y.size), both.reshape(both.size), P.reshape(P.size)
    q, w, k, v, f = Q.reshape(Q.size), W.reshape(W.size), K.reshape(K.size), V.reshape(V.size), N.reshape(N.size)
    for i in range(n):
        for t in range(wide):
            both[i, t] = V[i, t]
    if whole:
        commuting(G, M, H, both)
    error = size = gap = 0.0
    for first in range(0, m, HEIGHT):
        rows = min(HEIGHT, m - first)
        full = -(-rows // ROWS) * ROWS
        strip_of(A, first, rows, S)
        product(s, 0, step, 1, v, 0, wide, q, 0, wide, full, wide, n, wide, False)
        if adds:
            strip_of(X, first, rows, S)
        product(s, 0, step, 1, f, 0, n, y, 0, step, full, n, n, wide, False)
        for i in range(rows):
            for j in range(n):
                U[first + i, j] = Y[i, j] + S[i, j] if adds else Y[i, j]
                Y[i, j] = U[first + i, j]
        product(y, 0, step, 1, b, 0, twice, p, 0, twice, full, twice if whole else wide, n, wide, False)
        add_product(y, 0, 1, step, p, 0, twice, w, 0, wide, n, wide, rows, wide, False)
        if whole:
            for i in range(rows):
                for t in range(wide):
                    error += (P[i, wide + t] - Q[i, t]) ** 2
                    size += Q[i, t] ** 2
        else:
            if adds:
                strip_of(A, first, rows, S)
            add_product(s, 0, 1, step, p, 0, twice, k, 0, wide, n, wide, rows, wide, False)
            add_product(y, 0, 1, step, q, 0, wide, k, n * wide, wide, n, wide, rows, wide, False)
    for i in range(n):
        for t in range(wide):
            gap += (W[i, t] - V[i, t]) ** 2
            if not whole:
                error += (K[i, t] - K[n + i, t]) ** 2
                size += K[i, t] ** 2
    return np.sqrt(gap / V.size), np.sqrt(error / size)


def _entries(sources):
    """Return the kernels; `sources` is in their closure, which numba's cache on disk uses as a key."""

    @compiled(error_model="numpy", nogil=True)
    def gram(A, G):
        """Set G = A^T A, symmetric to the last bit; return ||A||_F^2."""
        sources  # noqa: B018
        return gram_of(A, G)

    @compiled(error_model="numpy", nogil=True)
    def factors(A, X, N, G, M, V, U, H):
        """Fill in U = A N and H = G M, symmetric to the last bit, in their precision; return the errors of both.

        Where X is not empty, U = X + X N. The first error is ||(U^T U - I) V|| / ||I V|| for the columns of V. The
        second is ||(U H - A) V|| / ||A V||; without an H, ||(A^T U - U^T A) V|| / ||A^T U V||.
        """
        sources  # noqa: B018
        return factors_of(A, X, N, G, M, V, U, H)

    return gram, factors


def _digest() -> int:
    """Return a checksum of the sources of the kernel."""
    here = Path(__file__).parent
    files = [here / f"{name}.py" for name in ("polar", "rows", "tiles")]
    files += sorted((here.parent / "tridiagonal").glob("*.py"))
    return zlib.crc32(b"".join(path.read_bytes() for path in files))


gram, factors = _entries(_digest())
