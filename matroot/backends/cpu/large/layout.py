# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""A large matrix on its way in, its root on its way out, and the certificate of the root that is returned."""

from __future__ import annotations

import numpy as np
from numba.types import boolean, float64

from matroot.backends.cpu.tridiagonal.lanes import fma, full
from matroot.backends.cpu.tridiagonal.memory import address, load, store
from matroot.backends.cpu.tridiagonal.stage import stage

#: Rows and columns of a tile that is read across the rows: as many as a cache holds lines at the same place of a page.
TILE = 8


@stage(boolean)
def scaled(S, A, first, second):
    """Write the upper triangle of S times both factors to A; return True if S is Hermitian to the last bit."""
    n = S.shape[0]
    symmetric = True
    for i in range(0, n, TILE):
        for j in range(i, n, TILE):
            for r in range(i, min(i + TILE, n)):
                for c in range(max(j, r), min(j + TILE, n)):
                    A[r, c] = S[r, c] * first * second
            different = 0
            for r in range(i, min(i + TILE, n)):
                for c in range(j, min(j + TILE, n)):
                    different += S[r, c] != np.conj(S[c, r])
            symmetric &= different == 0
    return symmetric


@stage(float64)
def evened(S, H):
    """Write the Hermitian part of S to H; return max |S - S^H| / max |S|, NaN if S is not finite."""
    n = S.shape[0]
    gap, size, lost = 0.0, 0.0, 0
    for i in range(0, n, TILE):
        for j in range(i, n, TILE):
            for r in range(i, min(i + TILE, n)):
                for c in range(max(j, r), min(j + TILE, n)):
                    x, y = S[r, c] + 0.0, np.conj(S[c, r]) + 0.0
                    one, other = abs(x), abs(y)
                    lost += not (one < np.inf and other < np.inf)
                    gap, size = max(gap, abs(x - y)), max(size, max(one, other))
                    H[r, c] = 0.5 * x + 0.5 * y
                    H[c, r] = np.conj(H[r, c])
    return gap / size if lost == 0 else np.nan


@stage()
def write(A, out, factor):
    """Write A times factor^2, from its upper triangle, to both triangles of `out`."""
    n = out.shape[0]
    for i in range(0, n, TILE):
        for j in range(i, n, TILE):
            for r in range(i, min(i + TILE, n)):
                for c in range(max(j, r), min(j + TILE, n)):
                    out[r, c] = A[r, c] * factor * factor
            for c in range(j, min(j + TILE, n)):
                for r in range(i, min(i + TILE, c)):
                    out[c, r] = np.conj(out[r, c])


@stage()
def times(S, n, W, Y, one, two):
    """Compute Y = S W times both factors, W and Y with a vector of eight numbers a row; four rows at a time."""
    w, y = address(W), address(Y)
    before, behind = full(one), full(two)
    for i in range(0, n, 4):
        a, b, c, d = i, min(i + 1, n - 1), min(i + 2, n - 1), min(i + 3, n - 1)
        p = q = r = s = full(0.0)
        for j in range(n):
            v = load(w, j)
            p = fma(full(S[a, j]), v, p)
            q = fma(full(S[b, j]), v, q)
            r = fma(full(S[c, j]), v, r)
            s = fma(full(S[d, j]), v, s)
        store(y, a, p * before * behind)
        store(y, b, q * before * behind)
        store(y, c, r * before * behind)
        store(y, d, s * before * behind)


@stage()
def times_complex(S, n, W, Y, one, two):
    """Do the same for complex matrices: S has pairs of numbers, and rows of W and Y begin with the real parts."""
    w, y = address(W), address(Y)
    before, behind = full(one), full(two)
    for i in range(0, n, 2):
        a, b = i, min(i + 1, n - 1)
        p = q = r = s = full(0.0)
        for j in range(n):
            u, v = load(w, 2 * j), load(w, 2 * j + 1)
            x, z = full(S[a, 2 * j]), full(S[a, 2 * j + 1])
            p, q = fma(x, u, fma(-z, v, p)), fma(x, v, fma(z, u, q))
            x, z = full(S[b, 2 * j]), full(S[b, 2 * j + 1])
            r, s = fma(x, u, fma(-z, v, r)), fma(x, v, fma(z, u, s))
        store(y, 2 * a, p * before * behind)
        store(y, 2 * a + 1, q * before * behind)
        store(y, 2 * b, r * before * behind)
        store(y, 2 * b + 1, s * before * behind)


@stage()
def multiply(S, n, W, Y, one, two):
    """Compute Y = S W times both factors; the rows of a complex matrix are twice as long."""
    if S.shape[1] > n:
        times_complex(S, n, W, Y, one, two)
    else:
        times(S, n, W, Y, one, two)


@stage(float64)
def residual(S, X, shift, halves, factor, probes, order):
    """Return ||W - G|| / ||G|| of the steps in `order` (see `conditioning.steps`), for (S times both halves) + shift I.

    X is in the units of the caller, and divided by factor^2. Whatever overflows is scaled first. Complex matrices are
    seen as real numbers in pairs, probes as the two vectors of a row.
    """
    n, inverse, columns = S.shape[0], 1.0 / factor, probes.shape[1]
    W, G, Y = np.empty((n, columns)), np.empty((n, columns)), np.empty((n, columns))
    for i in range(n):
        for t in range(columns):
            W[i, t] = G[i, t] = probes[i, t]
    for code in order:
        root = code == 1
        before = inverse if root else halves[0]
        moved = 0.0 if root else shift / before
        for i in range(n):
            for t in range(columns):
                if code > 1:
                    G[i, t] = W[i, t]
                    W[i, t] = probes[i, t]
                else:
                    W[i, t] *= before
        if code <= 1:
            if root:
                multiply(X, n, W, Y, inverse, 1.0)
            else:
                multiply(S, n, W, Y, halves[1], 1.0)
            for i in range(n):
                for t in range(columns):
                    W[i, t] = Y[i, t] + moved * W[i, t]
    error = whole = 0.0
    for i in range(n):
        for t in range(columns):
            error += (W[i, t] - G[i, t]) ** 2
            whole += G[i, t] ** 2
    return np.sqrt(error / whole)
