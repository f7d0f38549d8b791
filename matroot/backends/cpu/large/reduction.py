# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""A real symmetric matrix reduced to tridiagonal form on one thread: LAPACK's sytrd, by strips and tiles.

Reflectors go in panels (Dongarra, Sorensen & Hammarling, J. Comput. Appl. Math. 27, 1989): with V and W for those of a
panel that are there, in rows, the matrix is that at the panel's beginning plus V^T W + W^T V. Half of the operations
are products of that matrix with one vector, the other half is its update at the end of the panel. Rows and columns are
taken by whole registers, so that blocks of that size on the diagonal are needed whole.
"""

from __future__ import annotations

import math

import numpy as np
from numba.types import float64

from matroot.backends.cpu.large.rows import REGISTER, keep, multiple, plus_multiple, take_four, take_one
from matroot.backends.cpu.large.strips import mirrored_rows, one_row, several_rows
from matroot.backends.cpu.large.tiles import ROWS, add_product
from matroot.backends.cpu.tridiagonal.stage import stage

#: Reflectors that go together.
PANEL = 16
#: Squares of norms, in float32 and in float64, below which a row of a matrix of size 1 is 0, since its squares lose
#: digits soon: they become denormal.
NOTHING = (1e-30, 1e-280)


@stage()
def fill_blocks(A, n, end, wide):
    """Fill the blocks on the diagonal of A, and rows and columns from n on with zeros."""
    A[n:], A[:, n:end] = 0, 0
    for i in range(n):
        for j in range(i // wide * wide, i):
            A[i, j] = A[j, i]


@stage()
def add_rows(z, first, step, c, count, y, at, columns, wide):
    """Add c[h] times the h-th row of a matrix, which begins at `first`, to the numbers of y from `at` on."""
    if count == 0:
        return
    for j in range(0, columns // (4 * wide) * (4 * wide), 4 * wide):
        four = multiple(c[0], take_four(z, first + j))
        for h in range(1, count):
            four = plus_multiple(four, c[h], take_four(z, first + h * step + j))
        keep(y, at + j, take_four(y, at + j) + four)
    for j in range(columns // (4 * wide) * (4 * wide), columns, wide):
        one = multiple(c[0], take_one(z, first + j))
        for h in range(1, count):
            one = plus_multiple(one, c[h], take_one(z, first + h * step + j))
        keep(y, at + j, take_one(y, at + j) + one)


@stage(float64, float64)
def reflector(A, i, Z, z, v, k, begin, end, number):
    """Write the vector that reflects row i of A to its first entry beside the diagonal to row k of Z, and to that row.

    Return this entry and the factor tau of the reflector, 0 if there is nothing to reflect.
    """
    zero, one = A.dtype.type(0.0), A.dtype.type(1.0)
    for j in range(begin, min(i + 2, end)):
        Z[k, j] = zero
    for j in range(i + 2, end):
        Z[k, j] = A[i, j]
    one_row(z, v, 0, z, v, number, 0, 0, end - begin)
    alpha, squares = np.float64(A[i, i + 1]), np.float64(number[0])
    if squares < NOTHING[A.itemsize // 8]:
        for j in range(i + 1, end):
            Z[k, j] = zero
        for j in range(i + 2, end):
            A[i, j] = zero
        return alpha, 0.0
    beta = -math.copysign(math.sqrt(alpha * alpha + squares), alpha)
    scale = A.dtype.type(1.0 / (alpha - beta))
    Z[k, i + 1] = one
    for j in range(i + 2, end):
        Z[k, j] *= scale
        A[i, j] = Z[k, j]
    return beta, (beta - alpha) / beta


@stage()
def reduce(A, n, d, e, tau):
    """Reduce A, of order n, to d and e; its rows get the reflectors, as LAPACK leaves them in columns.

    The upper triangle of A is read. Z holds V, W, and V once more, so that one product makes both of the update.
    """
    step, wide = A.shape[1], np.int64(REGISTER // A.itemsize)
    end, lower = -(-n // wide) * wide, PANEL * step
    Z, c, number = np.zeros((3 * PANEL, step), A.dtype), np.zeros(2 * PANEL, A.dtype), np.zeros(1, A.dtype)
    S, z = A.reshape(A.size), Z.reshape(Z.size)
    fill_blocks(A, n, end, wide)
    for first in range(0, n, PANEL):
        stop = min(first + PANEL, n)
        for i in range(first, stop):
            k, begin = i - first, i // wide * wide
            for h in range(k):
                c[h], c[PANEL + h] = Z[PANEL + h, i], Z[h, i]
            add_rows(z, begin, step, c, k, S, i * step + begin, end - begin, wide)
            add_rows(z, lower + begin, step, c[PANEL:], k, S, i * step + begin, end - begin, wide)
            d[i] = A[i, i]
            if i == n - 1:
                e[i] = tau[i] = 0.0
                break
            begin = (i + 1) // wide * wide
            width, v, w = end - begin, k * step + begin, (PANEL + k) * step + begin
            e[i], tau[i] = reflector(A, i, Z, z, v, k, begin, end, number)
            for j in range(begin, end):
                Z[2 * PANEL + k, j], Z[PANEL + k, j] = Z[k, j], 0
            if tau[i] == 0.0:
                continue
            for r in range(begin, n, ROWS):
                at = r // wide * wide
                mirrored_rows(S, r * step + at, step, z, v + at - begin, z, w + at - begin, r - at, end - at)
            for h in range(0, k, ROWS):
                several_rows(z, h * step + begin, step, z, v, c, PANEL, h, width)
                several_rows(z, lower + h * step + begin, step, z, v, c, 0, h, width)
            add_rows(z, begin, step, c, k, z, w, width, wide)
            add_rows(z, lower + begin, step, c[PANEL:], k, z, w, width, wide)
            one_row(z, w, 0, z, v, number, 0, 0, width)
            less, part = A.dtype.type(-tau[i]), A.dtype.type(0.5 * tau[i] * tau[i] * number[0])
            for j in range(begin, end):
                Z[PANEL + k, j] = less * Z[PANEL + k, j] + part * Z[k, j]
        if stop < n:
            rest = stop * step + stop
            add_product(
                z, stop, 1, step, z, lower + stop, step, S, rest, step, n - stop, end - stop, 2 * PANEL, wide, True
            )
