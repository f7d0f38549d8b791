# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""The root Q F Q^H by BLAS: for complex matrices, and where BLAS has several threads."""

from __future__ import annotations

import numpy as np

from matroot.backends.cpu.large.blas import (
    ADJOINT,
    LOWER,
    NO,
    TRANSPOSED,
    at,
    gemm,
    symm,
    syr2k,
    times_upper_adjoint,
)
from matroot.backends.cpu.large.panels import diagonal_block, move_left, panel_of, triangular_factor
from matroot.backends.cpu.tridiagonal.stage import stage


@stage()
def assemble(blas, A, tau, q, g, f, width):
    """Write the upper triangle of X = Q F Q^H over A, by panels of `width` reflectors, beginning with the last.

    Z holds the panel V, W = S V and U side by side, S the part of X that is there. Q S Q^H for Q = I - V T V^H is
    S - V W^H - W V^H with W = S V T^H - V M / 2 and M = T V^H S V T^H: one product with S and one update of it.
    """
    n, K = q.shape
    ld = A.shape[1]
    one, half, zero = A.dtype.type(1.0), A.dtype.type(0.5), A.dtype.type(0.0)
    Z = np.zeros((2 * width + K, ld), A.dtype)
    U = Z[2 * width :]
    V = np.empty((K, width), A.dtype)
    x = np.empty((K + 1, width), A.dtype)
    T = np.zeros((width, width), A.dtype)
    G = np.empty((2 * width + K, width), A.dtype)
    H = np.empty((width + K, width), A.dtype)
    end = n
    for p0 in range((n - 2) // width * width, -width - 1, -width):
        start = max(p0 + 1, 0)
        k, m = min(width, n - 1 - p0), n - start
        row = 2 * (width - k)
        if p0 >= 0:
            panel_of(A, n, Z, row, p0, p0 + k)
        diagonal_block(q, g, f, x, V, A, start, end)
        if end < n:
            rows = n - end
            new = at(A, start, end)
            gemm(blas, NO, TRANSPOSED, rows, end - start, K, one, at(U, 0, end), ld, at(V, 0, 0), width, zero, new, ld)
        if p0 < 0:
            break
        move_left(q, U, start, end)
        end = start
        S, P, W = at(A, start, start), at(Z, row, start), at(Z, row + k, start)
        symm(blas, LOWER, m, k, one, S, ld, P, ld, zero, W, ld)
        gemm(blas, ADJOINT, NO, k, 2 * k + K, m, one, P, ld, P, ld, zero, at(G, 0, 0), width)
        triangular_factor(G, tau[p0 : p0 + k], T)
        gemm(blas, NO, NO, k, k + K, k, one, at(T, 0, 0), width, at(G, k, 0), width, zero, at(H, 0, 0), width)
        times_upper_adjoint(blas, k, k, half, at(T, 0, 0), width, at(H, 0, 0), width)
        times_upper_adjoint(blas, m, k, one, at(T, 0, 0), width, W, ld)
        gemm(blas, NO, NO, m, k + K, k, -one, P, ld, at(H, 0, 0), width, one, W, ld)
        syr2k(blas, m, k, -one, P, ld, W, ld, one, S, ld)
