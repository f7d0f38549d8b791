# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""Sums of R G R over poles, R = (T + b I)^{-1} with T tridiagonal, of either precision; imported with `kernel`.

With the pivots of T + b from below, 1 / r_j = d_j + b - e_j^2 r_{j+1}, and q_j = -e_j r_{j+1}, y = R g is

    h_j = g_j + q_j h_{j+1},  y_j = r_j h_j + q_{j-1} y_{j-1}

for all columns g at once. Between the two sides the matrix is transposed, a few rows at a time while they are in the
first cache.
"""

from __future__ import annotations

import numpy as np

from matroot.backends.cpu.large.rows import keep, multiple, plus_multiple, take_four, take_one, turn
from matroot.backends.cpu.tridiagonal.stage import stage


@stage()
def pivots(d, e, shift, b, w, count, K, q, r, scaled, high):
    """Fill q, r and scaled = w r (n x K, flat, of which `count` columns) in their precision; `high` is work space."""
    n = d.size
    for k in range(count):
        x = 1.0 / (d[n - 1] + shift + b[k])
        high[k] = x
        q[(n - 1) * K + k] = 0.0
        r[(n - 1) * K + k] = x
        scaled[(n - 1) * K + k] = w[k] * x
    for j in range(n - 2, -1, -1):
        for k in range(count):
            p = -e[j] * high[k]
            x = 1.0 / (e[j] * p + (d[j] + shift + b[k]))
            high[k] = x
            q[j * K + k] = p
            r[j * K + k] = x
            scaled[j * K + k] = w[k] * x


def _sweeps(take, count):
    """Return the two solves of a block of columns, as wide as `take` is, with the poles k and k + 1."""

    @stage()
    def left(G, V, W, room, at, c, step, n, wide, q, r, k, K):
        """V = (R_k G)^T and W = (R_{k+1} G)^T for the columns of G from c on; `room` has space from `at` on."""
        span = count * wide
        X, Y, T = at, at + n * span, at + 2 * n * span
        U = T + wide * span
        x = take(G, (n - 1) * step + c)
        y = x
        keep(room, X + (n - 1) * span, x)
        keep(room, Y + (n - 1) * span, y)
        for j in range(n - 2, -1, -1):
            g = take(G, j * step + c)
            x = plus_multiple(g, q[j * K + k], x)
            y = plus_multiple(g, q[j * K + k + 1], y)
            keep(room, X + j * span, x)
            keep(room, Y + j * span, y)
        for first in range(0, n, wide):
            for j in range(first, min(first + wide, n)):
                if j == 0:
                    x, y = multiple(r[k], x), multiple(r[k + 1], y)
                else:
                    h, g = take(room, X + j * span), take(room, Y + j * span)
                    x = plus_multiple(multiple(r[j * K + k], h), q[(j - 1) * K + k], x)
                    y = plus_multiple(multiple(r[j * K + k + 1], g), q[(j - 1) * K + k + 1], y)
                keep(room, T + (j - first) * span, x)
                keep(room, U + (j - first) * span, y)
            for j in range(n - first, wide):
                nothing = multiple(r.dtype.type(0.0), x)
                keep(room, T + j * span, nothing)
                keep(room, U + j * span, nothing)
            for t in range(0, span, wide):
                turn(room, T + t, span, V, (c + t) * step + first, step)
                turn(room, U + t, span, W, (c + t) * step + first, step)

    @stage()
    def right(X, Y, Z, c, step, n, m, q, r, k, K):
        """Z += R_k X + R_{k+1} Y in the columns from c on, and the first m rows; X and Y are overwritten."""
        x, y = take(X, (n - 1) * step + c), take(Y, (n - 1) * step + c)
        for j in range(n - 2, m - 1, -1):
            x = plus_multiple(take(X, j * step + c), q[j * K + k], x)
            y = plus_multiple(take(Y, j * step + c), q[j * K + k + 1], y)
        for j in range(min(n - 2, m - 1), -1, -1):
            x = plus_multiple(take(X, j * step + c), q[j * K + k], x)
            y = plus_multiple(take(Y, j * step + c), q[j * K + k + 1], y)
            keep(X, j * step + c, x)
            keep(Y, j * step + c, y)
        x, y = multiple(r[k], x), multiple(r[k + 1], y)
        keep(Z, c, take(Z, c) + x + y)
        for j in range(1, m):
            x = plus_multiple(multiple(r[j * K + k], take(X, j * step + c)), q[(j - 1) * K + k], x)
            y = plus_multiple(multiple(r[j * K + k + 1], take(Y, j * step + c)), q[(j - 1) * K + k + 1], y)
            keep(Z, j * step + c, take(Z, j * step + c) + x + y)

    return left, right


left_one, right_one = _sweeps(take_one, 1)
left_four, right_four = _sweeps(take_four, 4)


@stage()
def add_poles(G, Z, X, Y, step, n, wide, q, r, scaled, K, count):
    """Z += sum over k < count of w_k R_k G R_k for a symmetric G: its upper triangle at least; count is even.

    Matrices are flat, with rows `step` numbers apart, and 0 from n on to whole registers of `wide` numbers; X and Y are
    work space.
    """
    width = -(-n // wide) * wide
    room = np.empty((8 * n + 8 * wide + 1) * wide, G.dtype)
    at = (-np.int64(room.ctypes.data) // room.itemsize) % wide
    for k in range(0, count, 2):
        c = 0
        while c + 4 * wide <= width:
            left_four(G, X, Y, room, at, c, step, n, wide, q, r, k, K)
            c += 4 * wide
        while c < width:
            left_one(G, X, Y, room, at, c, step, n, wide, q, r, k, K)
            c += wide
        c = 0
        while c + 4 * wide <= width:
            right_four(X, Y, Z, c, step, n, min(n, c + 4 * wide), q, scaled, k, K)
            c += 4 * wide
        while c < width:
            right_one(X, Y, Z, c, step, n, min(n, c + wide), q, scaled, k, K)
            c += wide
