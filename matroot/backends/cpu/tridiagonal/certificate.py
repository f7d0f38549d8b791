# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""The certificate of eight matrices at a time; imported with `kernel`."""

from __future__ import annotations

from matroot.backends.cpu.tridiagonal.lanes import fma, full, full_wide, lanes, sqrt
from matroot.backends.cpu.tridiagonal.memory import after, load, load_four, number, store, store_four, triangle
from matroot.backends.cpu.tridiagonal.stage import stage


@stage()
def multiply(A, W, Y, n, columns):
    """Y = A W for the first columns of n x 8 matrices of lanes, by blocks of two rows and four columns."""
    for t in range(0, columns, 4):
        for i in range(0, n, 2):
            second = 1 if i + 1 < n else 0  # 0 where the last row has no partner
            at = triangle(i)
            y, z = full_wide(0.0), full_wide(0.0)
            for j in range(n):
                x = load_four(W, 8 * j + t)
                y = fma(load(A, at), x, y)
                z = fma(load(A, at + (second * (i + 1) if j <= i else second)), x, z)
                at += 1 if j < i else j + 1
            store_four(Y, 8 * (i + second) + t, z)
            store_four(Y, 8 * i + t, y)


@stage()
def factorize(A, n):
    """Overwrite the lower triangle A by its Cholesky factor L, with 1 / L_ii on the diagonal."""
    one = full(1.0)
    for i in range(n):
        row = triangle(i)
        for j in range(i + 1):
            other = triangle(j)
            x = load(A, row + j)
            for k in range(j):
                x = x - load(A, row + k) * load(A, other + k)
            store(A, row + j, one / sqrt(x) if j == i else x * load(A, other + j))


@stage()
def divide(L, W, n, columns):
    """W = A^{-1} W for the first columns of an n x 8 matrix of lanes, by the factor of A that `factorize` leaves."""
    for t in range(0, columns, 4):
        for i in range(n):
            row, w = triangle(i), load_four(W, 8 * i + t)
            for k in range(i):
                w = w - load(L, row + k) * load_four(W, 8 * k + t)
            store_four(W, 8 * i + t, load(L, row + i) * w)
        for i in range(n - 1, -1, -1):
            row = triangle(i)
            w = load(L, row + i) * load_four(W, 8 * i + t)
            store_four(W, 8 * i + t, w)
            for k in range(i):
                store_four(W, 8 * k + t, load_four(W, 8 * k + t) - load(L, row + k) * w)


@stage()
def products(A, X, n, probes, order, steps, inverted, work):
    """Take the probes V (n, 8) to W, and to G on the way; W and G are the first 16 n vectors of `work`.

    The codes of the steps in `order` are those of `conditioning.steps`: a product with A (0), with X (1), or W is kept
    as G and begins anew at V (2). Where it is not, G is V. The first step is a product with A; up to n = 8 the columns
    of V are unit vectors or 0, so that its columns are those of A. If `inverted`, A^{-1} takes the place of A, which is
    overwritten.
    """
    W, G, Y = work, after(work, 8 * n), after(work, 16 * n)
    columns = 4 if n <= 4 else 8
    for k in range(8 * n):
        v = full(number(probes, k))
        store(W, k, v)
        store(G, k, v)
    if inverted:
        factorize(A, n)
    elif n <= 8:
        for i in range(n):
            for j in range(i + 1):
                x = load(A, triangle(i) + j)
                store(W, 8 * i + j, x * full(number(probes, 9 * j)))
                store(W, 8 * j + i, x * full(number(probes, 9 * i)))
    for k in range(1 if n <= 8 and not inverted else 0, steps):
        code = number(order, k)
        if code > 1.0:
            for i in range(8 * n):
                store(G, i, load(W, i))
                store(W, i, full(number(probes, i)))
        elif inverted and code == 0.0:
            divide(A, W, n, columns)
        else:
            multiply(X if code > 0.0 else A, W, Y, n, columns)
            for i in range(n):
                for t in range(columns):
                    store(W, 8 * i + t, load(Y, 8 * i + t))


@stage(lanes)
def distance(W, G, n):
    """||W - G|| / ||G||."""
    error, whole = full(0.0), full(0.0)
    for k in range(8 * n):
        goal = load(G, k)
        gap = load(W, k) - goal
        error = fma(gap, gap, error)
        whole = fma(goal, goal, whole)
    return sqrt(error / whole)
