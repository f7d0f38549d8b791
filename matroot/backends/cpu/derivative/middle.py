# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""The derivative of a power of A = H T H^T in the direction G, once H and T are there."""

from __future__ import annotations

import math

import numpy as np
from numba.types import int64

from matroot.backends.cpu.derivative.entries import read, write
from matroot.backends.cpu.derivative.pole_solves import add_poles, pivots
from matroot.backends.cpu.derivative.shifts import move
from matroot.backends.cpu.derivative.two_sided import transform
from matroot.backends.cpu.large.tiles import mirror, multiply, transpose
from matroot.backends.cpu.tridiagonal.stage import stage

#: Numbers by which a row is longer, so that equal columns of neighbours are in other sets of a cache.
PADDING = 16
#: Matrices of work space.
ROOM = 5


@stage(int64, int64, int64)
def sizes(n, space):
    """Return how many numbers make a register, and the rows of a padded matrix and their distance."""
    wide = np.int64(64 // space.itemsize)
    rows = -(-n // wide) * wide
    return wide, rows, rows + PADDING


@stage(int64)
def begin(space, wide):
    """Return the first number of work space that begins a register."""
    return (-np.int64(space.ctypes.data) // space.itemsize) % wide


@stage()
def in_basis(M, d, e, delta, b, w, count, slope, v, adjoint, q, r, scaled, line, n, wide):
    """Write the derivative at T in the direction M[1] to M[2], both symmetric; M[3] and M[4] are work space."""
    step, K = M.shape[2], b.size
    flat = M.reshape(ROOM, M.shape[1] * step)
    P, Z, X, Y = flat[1], flat[2], flat[3], flat[4]
    mirror(P, step, n, wide)
    if slope and not adjoint:
        move(M[1], slope, v, True)
    Z[:] = 0
    pivots(d, e, delta, b, w, count, K, q, r, scaled, line)
    add_poles(P, Z, X, Y, step, n, wide, q, r, scaled, K, count)
    if slope and adjoint:
        move(M[2], slope, v, False)
    mirror(Z, step, n, wide)


@stage()
def by_products(M, G, exponent, factor, d, e, delta, b, w, count, slope, v, adjoint, q, r, scaled, line, out):
    """Fill `out` with the derivative in the direction G, whose largest entry is below 2^exponent, by products with H.

    M is work space, ROOM matrices with rows filled up to whole registers and 0 there; the first is H.
    """
    n, step, wide = G.shape[0], M.shape[2], np.int64(64 // G.itemsize)
    flat = M.reshape(ROOM, M.shape[1] * step)
    H, P, Z, X, Y = flat[0], flat[1], flat[2], flat[3], flat[4]
    read(G, M[3], M[4], math.ldexp(1.0, -exponent), wide)
    multiply(X, H, Y, step, n, wide, False)
    transpose(H, X, step, n, wide)
    multiply(X, Y, P, step, n, wide, True)
    in_basis(M, d, e, delta, b, w, count, slope, v, adjoint, q, r, scaled, line, n, wide)
    multiply(H, Z, X, step, n, wide, False)
    transpose(H, P, step, n, wide)
    multiply(X, P, Y, step, n, wide, True)
    returned(M[4], out, exponent, factor, wide)


@stage()
def by_reflectors(M, T, G, exponent, factor, d, e, delta, b, w, count, slope, v, adjoint, q, r, scaled, line, out):
    """Do the same, for M[0] with the reflectors of H in rows, and T with the triangular factors of their panels."""
    n, wide = G.shape[0], np.int64(64 // G.itemsize)
    read(G, M[1], M[3], math.ldexp(1.0, -exponent), wide)
    transform(M[1], M[0], T, True, n, wide)
    in_basis(M, d, e, delta, b, w, count, slope, v, adjoint, q, r, scaled, line, n, wide)
    transform(M[2], M[0], T, False, n, wide)
    returned(M[2], out, exponent, factor, wide)


@stage()
def returned(P, out, exponent, factor, wide):
    """Write P to `out`, times factor^2 and 2^exponent."""
    near = exponent >> 1
    write(P, out, factor * math.ldexp(1.0, near), factor * math.ldexp(1.0, exponent - near), wide)
