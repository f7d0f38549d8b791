# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""The derivative at one large matrix that LAPACK has reduced, in the precision of the direction G; see `kernel`."""

from __future__ import annotations

import math

import numpy as np

from matroot.backends.cpu.compiled import compiled
from matroot.backends.cpu.derivative.kernel import PADDING
from matroot.backends.cpu.derivative.panels import turn_basis
from matroot.backends.cpu.derivative.pole_solves import add_poles, pivots
from matroot.backends.cpu.derivative.reduction import digest
from matroot.backends.cpu.derivative.shifts import (
    NOT_FINITE,
    exponent_of,
    move,
    shift_of,
    take_poles,
    top_eigenvector,
)
from matroot.backends.cpu.tridiagonal.stage import stage


def room(n, dtype):
    """Return work space for matrices of order n: four of them, filled up to whole registers, their rows apart."""
    wide = 64 // np.dtype(dtype).itemsize
    height = (n + wide - 1) // wide * wide
    return np.zeros((4, height, height + PADDING), dtype)


#: Rows and columns of a tile that is read across the rows.
TILE = 16


@stage()
def read(G, P, factor):
    """P = the symmetric part of G times a factor."""
    n = G.shape[0]
    half = G.dtype.type(0.5 * factor)
    for i in range(0, n, TILE):
        for j in range(i, n, TILE):
            for r in range(i, min(i + TILE, n)):
                for c in range(max(r, j), min(j + TILE, n)):
                    P[r, c] = G[r, c] * half + G[c, r] * half


@stage()
def mirror(P, n):
    """Copy the upper triangle to the lower one."""
    for i in range(0, n, TILE):
        for j in range(i, n, TILE):
            for c in range(j, min(j + TILE, n)):
                for r in range(i, min(i + TILE, c)):
                    P[c, r] = P[r, c]


@stage()
def write(P, out, one, other):
    """Write the symmetric matrix P, from its upper triangle, times both factors."""
    n = out.shape[0]
    for i in range(0, n, TILE):
        for j in range(i, n, TILE):
            for r in range(i, min(i + TILE, n)):
                for c in range(max(r, j), min(j + TILE, n)):
                    out[r, c] = P[r, c] * one * other
            for c in range(j, min(j + TILE, n)):
                for r in range(i, min(i + TILE, c)):
                    out[c, r] = out[r, c]


def _entry(sources):
    """Return the kernel; `sources` is in its closure, which numba's cache on disk uses as a key."""

    @compiled(error_model="numpy", fastmath={"contract"}, nogil=True)
    def applied(blas, A, d, e, tau, low, top, halves, factor, G, bits, out, M, s, rule, ridge, adjoint, table, width):
        """Fill `out` with the derivative in the direction G, with these `bits`, and return True if there is one."""
        sources  # noqa: B018
        n, (relative, absolute), (poles, weights, counts) = G.shape[0], rule, table
        K = poles.shape[1]
        b, w, line, v = np.empty(K), np.empty(K), np.empty(K), np.empty(3 * n)
        delta, slope = shift_of(ridge, relative, absolute, top, halves[0] * halves[1])
        k = take_poles(low + delta, top + delta, s, poles, weights, counts, b, w)
        exponent = exponent_of(bits)
        if k == 0 or exponent == NOT_FINITE or (slope and not top_eigenvector(d, e, top, v)):
            return False
        wide, step = np.int64(64 // G.itemsize), M.shape[2]
        P, Z, flat = M[0], M[1], M.reshape(4, M.shape[1] * step)
        q, r, scaled = np.empty(n * K, G.dtype), np.empty(n * K, G.dtype), np.empty(n * K, G.dtype)
        read(G, P, math.ldexp(1.0, -exponent))
        turn_basis(blas, A, tau, P, width, False)
        mirror(P, n)
        Z[:, :] = 0
        if slope and not adjoint:
            move(P, slope, v, True)
        pivots(d, e, delta, b, w, k, q, r, scaled, line)
        add_poles(flat[0], flat[1], flat[2], flat[3], step, n, wide, True, q, r, scaled, k)
        if slope and adjoint:
            move(Z, slope, v, False)
        turn_basis(blas, A, tau, Z, width, True)
        near = exponent >> 1
        write(Z, out, factor * math.ldexp(1.0, near), factor * math.ldexp(1.0, exponent - near))
        return True

    return applied


applied = _entry(digest())
