# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""The orthogonal factor of a tridiagonal form from its reflectors, in float64: rounded reflectors are other ones.

Panels come one after the other, the last one first. The product of a panel is I - V T V^T (Schreiber & Van Loan, SIAM
J. Sci. Stat. Comput. 10, 1989), and a block of Q, all that is not yet that of I, changes by Q -= V T V^T Q.
"""

from __future__ import annotations

import numpy as np

from matroot.backends.cpu.large.panels import panel_of
from matroot.backends.cpu.large.rows import keep, multiple, plus_multiple, take_one, turn
from matroot.backends.cpu.large.tiles import add_product, product
from matroot.backends.cpu.tridiagonal.stage import stage

#: Reflectors that go together, and numbers in a register.
PANEL, WIDE = 16, 8


@stage()
def triangular_factor(G, T, count, wide):
    """Set T to minus the transpose of the factor T in I - V T V^T, from G = V V^T for vectors in rows of V; flat."""
    kind = T.dtype.type
    T[:] = 0
    for j in range(count):
        square = G[j * PANEL + j]
        tau = kind(2.0) / square if square > kind(0.5) else kind(0.0)
        for c in range(0, PANEL, wide):
            row = multiple(kind(0.0), take_one(T, c))
            for h in range(j):
                row = plus_multiple(row, -tau * G[j * PANEL + h], take_one(T, h * PANEL + c))
            keep(T, j * PANEL + c, row)
        T[j * PANEL + j] = -tau


@stage()
def apply_panel(Q, V, W, T, G, turned, count, first, m, old, done):
    """Multiply the block of m rows and columns of Q that begins at `first` by the product of a panel, from the left.

    Q is that of I but for the block of `done` rows and columns that begins at `old`; both begin whole registers.
    """
    step, wide = Q.shape[1], WIDE
    q, v, w, t = Q.reshape(Q.size), V.reshape(V.size), W.reshape(W.size), T.reshape(T.size)
    g, u = G.reshape(G.size), turned.reshape(turned.size)
    at, columns, after = first * step + first, -(-m // wide) * wide, PANEL * step
    for i in range(0, PANEL, wide):
        for j in range(first, first + columns, wide):
            turn(v, i * step + j, step, u, j * PANEL + i, PANEL)
    product(v, first, step, 1, u, first * PANEL, PANEL, g, 0, PANEL, PANEL, PANEL, m, wide, False)
    triangular_factor(g, t, count, wide)
    for i in range(PANEL):
        for j in range(first, first + columns):
            W[i, j - first] = V[i, j]
    some = -(-done // wide) * wide
    product(v, old, step, 1, q, old * step + old, step, w, old - first, step, PANEL, some, some, wide, False)
    product(t, 0, 1, PANEL, w, 0, step, w, after, step, PANEL, columns, PANEL, wide, False)
    add_product(v, first, 1, step, w, after, step, q, at, step, m, columns, PANEL, wide, False)


@stage()
def write(Q, n, H):
    """Write the matrix Q of order n to H, of either precision and with padded rows."""
    H[:, :] = 0
    for i in range(n):
        for j in range(n):
            H[i, j] = Q[i, j]


@stage()
def basis_of_rows(A, tau, H):
    """H = the product of the reflectors in the rows of A, the first row's first.

    Row i acts from column i + 1 on, where its vector has a 1, and not at all if tau is 0.
    """
    n = tau.size
    rows = -(-n // WIDE) * WIDE
    Q, V, W = np.zeros((rows, rows + PANEL)), np.zeros((PANEL, rows + PANEL)), np.zeros((2 * PANEL, rows + PANEL))
    T, G, turned = np.zeros((PANEL, PANEL)), np.zeros((PANEL, PANEL)), np.zeros((rows, PANEL))
    for i in range(n):
        Q[i, i] = 1.0
    old = (n - 1) // WIDE * WIDE
    done = 0
    for low in range((n - 2) // PANEL * PANEL, -1, -PANEL):
        count, first = min(PANEL, n - 1 - low), (low + 1) // WIDE * WIDE
        V[:, :] = 0
        panel_of(A, n, V, 0, low, low + count)
        for i in range(count):
            if tau[low + i] == 0.0:
                V[i] = 0
        apply_panel(Q, V, W, T, G, turned, count, first, n - first, old, done)
        old, done = first, n - first
    write(Q, n, H)


@stage()
def basis_of_lanes(U, n, H):
    """H = the product of the reflectors I - 2 u u^T that `keep_form` has written, the last row's first."""
    rows = -(-n // WIDE) * WIDE
    Q, V, W = np.zeros((rows, rows + PANEL)), np.zeros((PANEL, rows + PANEL)), np.zeros((2 * PANEL, rows + PANEL))
    T, G, turned = np.zeros((PANEL, PANEL)), np.zeros((PANEL, PANEL)), np.zeros((rows, PANEL))
    for i in range(n):
        Q[i, i] = 1.0
    done = 0
    for low in range(2, n, PANEL):
        top = min(low + PANEL, n) - 1
        V[:, :] = 0
        for i in range(low, top + 1):
            for j in range(i):
                V[top - i, j] = U[i * (i - 1) // 2 + j]
        apply_panel(Q, V, W, T, G, turned, top + 1 - low, 0, top, 0, done)
        done = top
    write(Q, n, H)
