# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""Eight matrices side by side in memory: gathered from a stack, scaled, and scattered back.

Of a symmetric matrix the lower triangle is kept, row by row; entry k of eight matrices is one vector. The tridiagonal
forms are written for derivatives.
"""

from __future__ import annotations

import math

from matroot.backends.cpu.tridiagonal.lanes import any_less, fma, full, lanes, size, sqrt, to_single, where_less
from matroot.backends.cpu.tridiagonal.memory import (
    after,
    from_lanes,
    load,
    number,
    prefetch,
    put,
    store,
    to_lanes,
    triangle,
)
from matroot.backends.cpu.tridiagonal.stage import stage

#: The facts of a tridiagonal form: two factors that have scaled A to T, the ends of its spectrum, and 0 if A is finite.
ONE, OTHER, LOW, HIGH, FINITE = range(5)


@stage()
def read(stack, at, length, step, count, target):
    """Take `length` neighbours, from the at-th number on, of matrices `step` numbers apart; see `to_lanes`."""
    for k in range(0, length if length < 8 else 0):
        for t in range(8):
            put(target, 8 * k + t, number(stack, at + k + step * (t if t < count else count - 1)))
    for k in range(0, length if length >= 8 else 0, 8):
        block = k if k + 8 <= length else length - 8  # the last block may begin in the one before
        to_lanes(stack, at + block, step, count, after(target, block))


@stage()
def write(source, out, at, length, step, count):
    """Undo `read`."""
    for k in range(0, length if length < 8 else 0):
        for t in range(count):
            put(out, at + k + step * t, number(source, 8 * k + t))
    for k in range(0, length if length >= 8 else 0, 8):
        block = k if k + 8 <= length else length - 8
        from_lanes(after(source, block), out, at + block, step, count)


@stage()
def gather(stack, first, count, n, A, U, work):
    """Lower triangles of matrices first, first + 1, ... as lanes of A, upper ones of U; spare lanes repeat the last.

    Rows of less than eight numbers go together.
    """
    step, together = n * n, n < 8
    if together:
        read(stack, first * step, step, step, count, work)
    for i in range(n):
        line = after(work, n * i if together else 0)
        if not together:
            read(stack, (first * n + i) * n, n, step, count, work)
        row = triangle(i)
        for j in range(i + 1):
            store(A, row + j, load(line, j))
        for j in range(i, n):
            store(U, triangle(j) + i, load(line, j))


@stage()
def ahead(stack, at, first, last):
    """Ask for vectors `first` to `last` of those that begin with the at-th number."""
    begin = at >> 3
    for k in range(first, last):
        prefetch(stack, begin + k)


@stage()
def scatter(X, first, count, n, out, work):
    """Write the symmetric lanes X to matrices first, first + 1, ... of out."""
    step, together = n * n, n < 8
    for i in range(n):
        row, line = triangle(i), after(work, n * i if together else 0)
        for j in range(i + 1):
            store(line, j, load(X, row + j))
        for j in range(i + 1, n):
            store(line, j, load(X, triangle(j) + i))
        if not together:
            write(work, out, (first * n + i) * n, n, step, count)
    if together:
        write(work, out, first * step, step, step, count)


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
    before, near_half, far_half, root = 0, 1.0, 1.0, 1.0
    for t in range(8):
        _, exponent = math.frexp(number(halves, t))
        if exponent != before:  # else as for the lane before
            before, near = exponent, exponent >> 1
            near_half, far_half = math.ldexp(1.0, -near), math.ldexp(1.0, near - exponent)
            whole = exponent * a // (2 * b)  # in integers: e may be a thousand times the error of a / b
            root = math.ldexp(2.0 ** ((exponent * a - whole * 2 * b) / (2 * b)), whole)
        put(halves, t, near_half)
        put(halves, 8 + t, far_half)
        put(factor, t, root)
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


def form_numbers(n: int) -> int:
    """Return how many numbers the form of a matrix of order n has."""
    return n * (n - 1) // 2 + 2 * n + 5


@stage()
def keep_form(A, d, e, tau, halves, low, high, finite, n, first, count, forms, work):
    """Write the forms of up to eight matrices to `forms`, from the matrix `first` on.

    That of A = H T H^T, H the product of I - 2 u u^T with the last row's first, is one row of numbers: the unit vectors
    u before the diagonal, or 0, row after row; the diagonal of T, what is beside it, with a free place, and the facts.
    """
    end = n * (n - 1) // 2
    step = end + 2 * n + 5
    start = first * step
    for i in range(1, n):
        unit = sqrt(full(0.5) * load(tau, i)) if i > 1 else full(0.0)
        for j in range(i):
            store(work, j, unit * load(A, triangle(i) + j))
        write(work, forms, start + i * (i - 1) // 2, i, step, count)
    write(d, forms, start + end, n, step, count)
    write(e, forms, start + end + n, n, step, count)
    store(work, ONE, load(halves, 0))
    store(work, OTHER, load(halves, 1))
    store(work, LOW, load(low, 0))
    store(work, HIGH, load(high, 0))
    store(work, FINITE, load(finite, 0))
    write(work, forms, start + end + 2 * n, 5, step, count)


@stage()
def clear(F, A, n):
    """Set rows and columns of F to 0 where the diagonal of A is: all of such a row is 0 in a semidefinite matrix."""
    zero = full(0.0)
    for i in range(n):
        entry = size(load(A, triangle(i) + i))
        if any_less(zero, where_less(zero, entry, zero, full(1.0))):
            for j in range(n):
                at = triangle(i) + j if j <= i else triangle(j) + i
                store(F, at, where_less(zero, entry, load(F, at), zero))
