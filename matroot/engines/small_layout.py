# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""Eight matrices side by side in memory: gathered from a stack, scaled, and scattered back.

Of a symmetric matrix the lower triangle is kept, row by row; entry k of eight matrices is one vector.
"""

from __future__ import annotations

import math

import numpy as np
from numba import literal_unroll

from matroot.engines.small_lanes import (
    fma,
    full,
    load,
    load_at,
    size,
    store,
    store_at,
    to_single,
    transposed,
    where_less,
)
from matroot.engines.small_tridiagonal import jit


@jit
def gather(stack, first, count, n, A, U):
    """Lower triangles of matrices first, first + 1, ... as lanes of A, upper ones of U; spare lanes repeat the last."""
    flat = stack.reshape(stack.size)
    for i in range(n):
        row = (i * (i + 1)) // 2
        for block in range(0, n if n >= 8 else 0, 8):
            j0 = min(block, n - 8)  # the last block may begin in the one before
            at = (first * n + i) * n + j0
            step, last = n * n, count - 1
            rows = transposed(
                (
                    load_at(flat, at),
                    load_at(flat, at + step * min(1, last)),
                    load_at(flat, at + step * min(2, last)),
                    load_at(flat, at + step * min(3, last)),
                    load_at(flat, at + step * min(4, last)),
                    load_at(flat, at + step * min(5, last)),
                    load_at(flat, at + step * min(6, last)),
                    load_at(flat, at + step * min(7, last)),
                )
            )
            j = j0
            for x in literal_unroll(rows):
                if j <= i:
                    store(A, row + j, x)
                if j >= i:
                    store(U, (j * (j + 1)) // 2 + i, x)
                j += 1
        for j in range(n if n < 8 else 0):
            for t in range(8):
                x = stack[first + min(t, count - 1), i, j]
                if j <= i:
                    A[8 * (row + j) + t] = x
                if j >= i:
                    U[8 * ((j * (j + 1)) // 2 + i) + t] = x


@jit
def scatter(X, first, count, n, out):
    """The symmetric lanes X to matrices first, first + 1, ... of out."""
    flat = out.reshape(out.size)
    step = n * n
    for i in range(n):
        row = (i * (i + 1)) // 2
        for block in range(0, n if n >= 8 else 0, 8):
            j0 = min(block, n - 8)
            at = (first * n + i) * n + j0
            columns = transposed(
                (
                    load(X, entry(row, i, j0)),
                    load(X, entry(row, i, j0 + 1)),
                    load(X, entry(row, i, j0 + 2)),
                    load(X, entry(row, i, j0 + 3)),
                    load(X, entry(row, i, j0 + 4)),
                    load(X, entry(row, i, j0 + 5)),
                    load(X, entry(row, i, j0 + 6)),
                    load(X, entry(row, i, j0 + 7)),
                )
            )
            t = 0
            for x in literal_unroll(columns):
                if t < count:
                    store_at(flat, at + t * step, x)
                t += 1
        for j in range(n if n < 8 else 0):
            for t in range(count):
                out[first + t, i, j] = X[8 * entry(row, i, j) + t]


@jit
def entry(row, i, j):
    """Where (i, j) is in a triangle; row is where row i begins."""
    return row + j if j <= i else (j * (j + 1)) // 2 + i


@jit
def scaled(A, A0, n, halves, gap, absolute):
    """Symmetrize A, its upper triangle in A0, and divide it by the power of two 2^e above its largest entry.

    A0 becomes a copy, `halves` two factors that make up 2^-e, and `gap` the largest difference of the triangles
    relative to the largest entry. Returned is a number that is 0 in the lanes of finite matrices, else NaN.
    """
    entries = (n * (n + 1)) // 2
    zero, half = full(0.0), full(0.5)
    largest, finite, apart = full(absolute), zero, zero
    for k in range(entries):
        a, b = load(A, k), load(A0, k)
        finite = fma(a, zero, fma(b, zero, finite))
        difference = size(a - b)
        apart = where_less(apart, difference, difference, apart)
        a = where_less(zero, difference, fma(half, a, half * b), a)
        store(A, k, a)
        a = size(a)
        largest = where_less(largest, a, a, largest)
    store(gap, 0, apart / largest)
    store(halves, 0, largest)
    for t in range(8):
        _, exponent = math.frexp(halves[t])
        near = exponent // 2
        halves[t] = math.ldexp(1.0, -near)
        halves[8 + t] = math.ldexp(1.0, near - exponent)
    one, two = load(halves, 0), load(halves, 1)
    for k in range(entries):
        a = load(A, k) * one * two
        store(A, k, a)
        store(A0, k, a)
    return finite


@jit
def in_units(X, Y, n, factor, single):
    """X times factor^2, rounded to float32 if that is what is given back; Y is that divided by factor^2."""
    inverse = full(1.0) / factor
    for k in range((n * (n + 1)) // 2):
        x = load(X, k) * factor * factor
        if single:
            x = to_single(x)
        store(X, k, x)
        store(Y, k, x * inverse * inverse)


@jit
def aligned(count):
    """Room for `count` vectors, none of which crosses a cache line."""
    room = np.empty(8 * count + 8)
    start = (-(room.ctypes.data // 8)) % 8
    return room[start : start + 8 * count]


@jit
def move_diagonal(A, n, shift):
    """A += shift I."""
    for i in range(n):
        at = (i * (i + 1)) // 2 + i
        store(A, at, load(A, at) + shift)
