# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""L = sum over k of c_k (A + b_k I)^{-1} G (A + b_k I)^{-1} for a reduced A = H T H^T, in the precision of G."""

from __future__ import annotations

import math

import numpy as np

from matroot.backends.cpu.compiled import compiled
from matroot.backends.cpu.derivative.pole_solves import add_poles, pivots
from matroot.backends.cpu.derivative.reduction import FACTOR, FINITE, HIGH, LOW, ONE, OTHER, digest
from matroot.backends.cpu.derivative.shifts import (
    NOT_FINITE,
    exponent_of,
    move,
    shift_of,
    take_poles,
    top_eigenvector,
)
from matroot.backends.cpu.large.blas import NO, TRANSPOSED, at, gemm
from matroot.backends.cpu.tridiagonal.stage import stage

#: Numbers by which a row of a work array is longer, so that equal columns of neighbours are in other sets of a cache.
PADDING = 16


@stage()
def product(blas, left, right, A, B, C, n, factor):
    """C = factor op(A) op(B) on the leading n x n blocks, all of one precision."""
    alpha, zero = A.dtype.type(factor), A.dtype.type(0.0)
    a, b, c = at(A, 0, 0), at(B, 0, 0), at(C, 0, 0)
    gemm(blas, right, left, n, n, n, alpha, b, B.shape[1], a, A.shape[1], zero, c, C.shape[1])


@stage()
def write_symmetric(L, out, n, one, two):
    """Write L + L^T (n x n) times both factors to `out`."""
    for r in range(n):
        for c in range(r + 1):
            x = (L[r, c] + L[c, r]) * one * two
            out[r, c] = x
            out[c, r] = x


def _entry(sources):
    """Return the kernel; `sources` is in its closure, which numba's cache on disk uses as a key."""

    @compiled(error_model="numpy", fastmath={"contract"}, nogil=True)
    def applied(blas, bases, D, E, facts, G, bits, out, served, s, rule, ridge, adjoint, table):
        """Fill `out` with the derivatives in the directions G, of their precision; `bits` are G as integers."""
        sources  # noqa: B018
        n, (relative, absolute), (poles, weights, counts) = G.shape[1], rule, table
        K = poles.shape[1]
        wide = np.int64(64 // G.itemsize)
        width = (n + wide - 1) // wide * wide
        step = width + PADDING
        H, W = np.empty((n, n), G.dtype), np.empty((n, n), G.dtype)
        M = np.zeros((4, width, step), G.dtype)
        P, Z, X, flat = M[0], M[1], M[2], M.reshape(4, width * step)
        q, r, scaled = np.empty(n * K, G.dtype), np.empty(n * K, G.dtype), np.empty(n * K, G.dtype)
        b, w, line, v = np.empty(K), np.empty(K), np.empty(K), np.empty(3 * n)
        for i in range(G.shape[0]):
            d, e, top = D[i], E[i], facts[i, HIGH]
            delta, slope = shift_of(ridge[i], relative, absolute, top, facts[i, ONE] * facts[i, OTHER])
            k = take_poles(facts[i, LOW] + delta, top + delta, s, poles, weights, counts, b, w)
            exponent = exponent_of(bits[i])
            served[i] = facts[i, FINITE] == 0.0 and k > 0 and exponent != NOT_FINITE
            if served[i] and slope:
                served[i] = top_eigenvector(d, e, top, v)
            if not served[i]:
                continue
            for y in range(n):
                for x in range(n):
                    H[y, x] = bases[i, y, x]
            product(blas, NO, NO, G[i], H, W, n, math.ldexp(1.0, -exponent))
            product(blas, TRANSPOSED, NO, H, W, P, n, 1.0)
            if slope and not adjoint:
                move(P, slope, v, True)
            Z[:, :] = 0
            pivots(d, e, delta, b, w, k, q, r, scaled, line)
            add_poles(flat[0], flat[1], flat[2], flat[3], step, n, wide, False, q, r, scaled, k)
            if slope and adjoint:
                move(Z, slope, v, False)
            product(blas, NO, NO, H, Z, W, n, 1.0)
            product(blas, NO, TRANSPOSED, W, H, X, n, 1.0)
            factor, near = facts[i, FACTOR], exponent >> 1
            one, other = factor * math.ldexp(1.0, near), factor * math.ldexp(1.0, exponent - near - 1)
            write_symmetric(X, out[i], n, one, other)

    return applied


applied = _entry(digest())
