# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""H^T S H and H S H^T for a symmetric S and the orthogonal factor H of a tridiagonal form, without forming H.

The product of the reflectors of a panel, Q = I - V T V^T (Schreiber & Van Loan, SIAM J. Sci. Stat. Comput. 10, 1989),
acts on the rows and columns from that panel on. With Y = S V T and M = T^T V^T Y,

    Q^T S Q = S - V W^T - W V^T,  W = Y - V M / 2,

and of the rows before them, on the columns alone, Y V^T is taken. Half of S is enough for that: 2 n^3 operations, where
products with H take 3, and H itself 4/3 in double precision.
"""

from __future__ import annotations

import numpy as np

from matroot.backends.cpu.large.by_tiles import turned
from matroot.backends.cpu.large.panels import triangular_factor
from matroot.backends.cpu.large.tiles import COUNT, add_product, product
from matroot.backends.cpu.tridiagonal.stage import stage

#: Reflectors that go together: a multiple of the columns of a tile, so that blocks on the diagonal are always the same.
PANEL = 32
#: Terms of a sum that go together, whole panels: rounding grows with the root of their number.
DEPTH = 64
#: Numbers of float64 in a register.
WIDE = 8


@stage()
def times_symmetric(S, step, V, Y, start, end, wide):
    """Y = S V for the columns of S from `start` to `end` and all its rows; what `transform` fills of S is read."""
    block = COUNT * wide
    for i in range(end * PANEL):
        Y[i] = 0
    for c in range(start, end, DEPTH):
        depth = min(DEPTH, end - c)
        v = c * PANEL
        if c > 0:
            add_product(S, c, step, 1, V, v, PANEL, Y, 0, PANEL, c, PANEL, depth, wide, False)
        for i in range(c, c + depth, block):
            rows, here = min(block, end - i), i * PANEL
            add_product(
                S, i * step + i, step, 1, V, here, PANEL, Y, here, PANEL, rows, PANEL, c + depth - i, wide, False
            )
            add_product(S, c * step + i, 1, step, V, v, PANEL, Y, here, PANEL, rows, PANEL, i - c, wide, False)
        i = c + depth
        if i < end:
            add_product(S, c * step + i, 1, step, V, v, PANEL, Y, i * PANEL, PANEL, end - i, PANEL, depth, wide, False)


@stage()
def times_columns(Z, z, step, V, start, end, M, wide):
    """M = Z V for PANEL rows of Z that begin at z and the columns from `start` to `end`."""
    for i in range(PANEL * PANEL):
        M[i] = 0
    for c in range(start, end, DEPTH):
        depth = min(DEPTH, end - c)
        add_product(Z, z + c, step, 1, V, c * PANEL, PANEL, M, 0, PANEL, PANEL, PANEL, depth, wide, False)


@stage()
def reflectors_of_rows(A, tau, R):
    """Write reflectors to R, the r-th of which acts on what is from r on, and is 0 where it does nothing.

    Row r - 1 of A has it, where its vector has a 1 in column r.
    """
    n = tau.size
    R[:, :] = 0
    for r in range(1, n):
        if tau[r - 1] != 0.0:
            R[r, r] = 1
            for j in range(r + 1, n):
                R[r, j] = A[r - 1, j]


@stage()
def triangular_factors(R, T, n):
    """T = minus the factors T of all panels, one below the other, for reflectors that are rounded as they are."""
    end, step = -(-n // WIDE) * WIDE, R.shape[1]
    Z, V, G = np.zeros((PANEL, step)), np.zeros(step * PANEL), np.zeros((PANEL, PANEL))
    z, gram, F, tau = Z.reshape(Z.size), G.reshape(G.size), np.zeros((PANEL, PANEL)), np.zeros(PANEL)
    for start in range(0, n, PANEL):
        rows = min(PANEL, R.shape[0] - start)
        Z[rows:] = 0
        for i in range(rows):
            for j in range(start, end):
                Z[i, j] = R[start + i, j]
        turned(z, start, step, V, start * PANEL, PANEL, PANEL, end - start, WIDE)
        times_columns(z, 0, step, V, start, end, gram, WIDE)
        for i in range(PANEL):
            tau[i] = 2.0 / G[i, i] if G[i, i] > 0.0 else 0.0
        triangular_factor(G, tau, F)  # of the transpose
        for i in range(PANEL):
            for j in range(PANEL):
                T[start + i, j] = -F[j, i]


@stage()
def take_panel(R, T, start, forward, end, Z, F):
    """Write the panel's V^T to the first and the third PANEL rows of Z, and minus T, or its transpose, to F."""
    rows = min(PANEL, end - start)
    for i in range(PANEL):
        for j in range(PANEL):
            F[i, j] = T[start + i, j] if forward else T[start + j, i]
        for j in range(start, end):
            Z[i, j] = R[start + i, j] if i < rows else 0
            Z[2 * PANEL + i, j] = Z[i, j]


@stage()
def transform(S, R, T, forward, n, wide):
    """S = H^T S H if `forward`, else H S H^T; its upper triangle, and blocks on the diagonal, count and are filled.

    Z holds V^T, -W^T, V^T once more, since S becomes less both V W^T and W V^T, and (S V)^T.
    """
    step, end, k, half = R.shape[1], -(-n // wide) * wide, PANEL, R.dtype.type(0.5)
    Z, W, Y = np.zeros((4 * k, step), R.dtype), k * step, 3 * k * step
    V, SV, F = np.zeros(end * k, R.dtype), np.zeros(end * k, R.dtype), np.empty((k, k), R.dtype)
    M, H = np.empty(k * k, R.dtype), np.empty(k * k, R.dtype)
    s, z, f, count = S.reshape(S.size), Z.reshape(Z.size), F.reshape(F.size), -(-n // k)
    for p in range(count):
        start = (p if forward else count - 1 - p) * k
        m, width = n - start, end - start
        take_panel(R, T, start, forward, end, Z, F)
        turned(z, start, step, V, start * k, k, k, width, wide)
        times_symmetric(s, step, V, SV, start, end, wide)
        turned(SV, 0, k, z, Y, step, end, k, wide)
        product(f, 0, 1, k, z, Y, step, z, W, step, k, end, k, wide, False)
        if start > 0:
            add_product(z, W, 1, step, z, start, step, s, start, step, start, width, k, wide, False)
        times_columns(z, W, step, V, start, end, M, wide)
        for i in range(k * k):
            M[i] *= half
        product(M, 0, k, 1, f, 0, k, H, 0, k, k, k, k, wide, False)
        add_product(H, 0, k, 1, z, start, step, z, W + start, step, k, width, k, wide, False)
        add_product(z, start, 1, step, z, W + start, step, s, start * step + start, step, m, width, 2 * k, wide, True)
