# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""Eight matrices side by side in memory: gathered from a stack, scaled, and scattered back.

Of a symmetric matrix the lower triangle is kept, row by row; entry k of eight matrices is one vector.
"""

from __future__ import annotations

import math

from matroot.backends.cpu.tridiagonal.lanes import fma, full, lanes, size, to_single, where_less
from matroot.backends.cpu.tridiagonal.memory import (
    after,
    from_lanes,
    load,
    number,
    put,
    store,
    to_lanes,
    triangle,
)
from matroot.backends.cpu.tridiagonal.stage import stage


@stage()
def gather(stack, first, count, n, A, U, work):
    """Lower triangles of matrices first, first + 1, ... as lanes of A, upper ones of U; spare lanes repeat the last."""
    step = n * n
    for i in range(n):
        row, at = triangle(i), (first * n + i) * n
        for j in range(n):
            if n < 8:
                for t in range(8):
                    x = number(stack, at + j + step * (t if t < count else count - 1))
                    put(work, 8 * j + t, x)
            elif j & 7 == 0:
                block = j if j + 8 <= n else n - 8  # the last block may begin in the one before
                to_lanes(stack, at + block, step, count, after(work, block))
        for j in range(i + 1):
            store(A, row + j, load(work, j))
        for j in range(i, n):
            store(U, triangle(j) + i, load(work, j))


@stage()
def scatter(X, first, count, n, out, work):
    """Write the symmetric lanes X to matrices first, first + 1, ... of out."""
    step = n * n
    for i in range(n):
        row, at = triangle(i), (first * n + i) * n
        for j in range(i + 1):
            store(work, j, load(X, row + j))
        for j in range(i + 1, n):
            store(work, j, load(X, triangle(j) + i))
        for j in range(n):
            if n < 8:
                for t in range(count):
                    put(out, at + j + step * t, number(work, 8 * j + t))
            elif j & 7 == 0:
                block = j if j + 8 <= n else n - 8
                from_lanes(after(work, block), out, at + block, step, count)


@stage(lanes)
def scaled(A, A0, n, a, b, absolute, halves, factor, gap):
    """Symmetrize A, its upper triangle in A0, and divide it by the power of two 2^e above its largest entry.

    A0 becomes a copy, `halves` two factors that make up 2^-e, `factor` the root 2^(e a / 2 b) of what undoes that
    for the power a / b, and `gap` the largest difference of the triangles relative to the largest entry. Returned is
    a number that is 0 in the lanes of finite matrices, else NaN.
    """
    entries = triangle(n)
    zero, half = full(0.0), full(0.5)
    largest, finite, apart = full(absolute), zero, zero
    for k in range(entries):
        x, y = load(A, k), load(A0, k)
        finite = fma(x, zero, fma(y, zero, finite))
        difference = size(x - y)
        apart = where_less(apart, difference, difference, apart)
        x = where_less(zero, difference, fma(half, x, half * y), x)
        store(A, k, x)
        x = size(x)
        largest = where_less(largest, x, x, largest)
    store(gap, 0, apart / largest)
    store(halves, 0, largest)
    for t in range(8):
        _, exponent = math.frexp(number(halves, t))
        near = exponent >> 1
        put(halves, t, math.ldexp(1.0, -near))
        put(halves, 8 + t, math.ldexp(1.0, near - exponent))
        whole = exponent * a // (2 * b)  # in integers: e may be a thousand times the error of a / b
        put(factor, t, math.ldexp(2.0 ** ((exponent * a - whole * 2 * b) / (2 * b)), whole))
    one, two = load(halves, 0), load(halves, 1)
    for k in range(entries):
        x = load(A, k) * one * two
        store(A, k, x)
        store(A0, k, x)
    return finite


@stage()
def in_units(X, Y, n, factor, single):
    """X times factor^2, rounded to float32 if that is what is given back; Y is that divided by factor^2."""
    inverse = full(1.0) / factor
    for k in range(triangle(n)):
        x = load(X, k) * factor * factor
        if single:
            x = to_single(x)
        store(X, k, x)
        store(Y, k, x * inverse * inverse)


@stage()
def move_diagonal(A, n, shift):
    """Add shift I to A."""
    for i in range(n):
        at = triangle(i) + i
        store(A, at, load(A, at) + shift)
