# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""The parts of Q F Q^H, one block of rows after the other: those of F, and the reflectors of Q.

Matrices lie in rows.
"""

from __future__ import annotations

from matroot.backends.cpu.tridiagonal.stage import stage

#: Products of q below this are negligible for matrices with eigenvalues from 1e-14 to 1.
NOTHING = 1e-120


@stage()
def diagonal_block(q, g, f, x, V, X, c0, c1):
    """Fill the block of F at rows and columns [c0, c1), and V, products of q to row c1 - 1."""
    K = q.shape[1]
    sums = x[K]
    for i in range(c0, c1):
        m = i - c0
        X[i, i] = f[i]
        for j in range(m):
            sums[j] = 0.0
        for k in range(K):
            x[k, m] = g[i, k]
            for j in range(m):
                sums[j] += x[k, j]
        for j in range(m):
            X[c0 + j, i] = X[i, c0 + j] = sums[j]
        if i + 1 < c1:
            for k in range(K):
                for j in range(m + 1):
                    x[k, j] *= q[i, k]
    for k in range(K):
        for j in range(c1 - c0):
            V[k, j] = x[k, j]


@stage()
def move_left(q, U, c0, c1):
    """From the rows of U beginning at c1 to those at c0; products below NOTHING are 0, before they are denormal."""
    K, n = q.shape[1], q.shape[0]
    for k in range(K):
        product = 1.0
        for i in range(c0, c1):
            product *= q[i - 1, k]
            if abs(product) < NOTHING:
                product = 0.0
            U[k, i] = product
        for i in range(c1, n):
            u = U[k, i] * product
            U[k, i] = u if abs(u) >= NOTHING else 0.0


@stage()
def triangular_factor(G, tau, T):
    """T with I - V T V^H the product of the reflectors, from G = V^H V; both as BLAS sees them (LAPACK's larft)."""
    k = tau.size
    for j in range(k):
        for i in range(k):
            T[j, i] = 0.0
        for h in range(j):
            g = -tau[j] * G[j, h]
            for i in range(h + 1):
                T[j, i] += g * T[h, i]
        T[j, j] = tau[j]


@stage()
def panel_of(A, n, Z, row, p0, p1):
    """Copy reflectors p0 to p1 - 1 from the rows of A, of order n, to Z."""
    for i in range(p0, p1):
        r = row + i - p0
        for j in range(p0 + 1, i + 1):
            Z[r, j] = 0.0
        Z[r, i + 1] = 1.0
        for j in range(i + 2, n):
            Z[r, j] = A[i, j]
