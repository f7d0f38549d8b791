# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""Sums of R G R over poles, R = (T + b I)^{-1} with T tridiagonal, of either precision; imported with `kernel`.

With the pivots of T + b from below, 1 / r_j = d_j + b - e_j^2 r_{j+1}, and q_j = -e_j r_{j+1}, y = R g is

    h_j = g_j + q_j h_{j+1},  y_j = r_j h_j + q_{j-1} y_{j-1}

for all columns g at once. Between the two sides the matrix is transposed.
"""

from __future__ import annotations

from matroot.backends.cpu.derivative.rows import keep, multiple, plus_multiple, take_four, take_one, turn
from matroot.backends.cpu.tridiagonal.stage import stage


@stage()
def pivots(d, e, shift, b, w, K, q, r, scaled, high):
    """Fill q, r and scaled = w r (n x K, flat) in their precision; `high` is work space for K numbers."""
    n = d.size
    for k in range(K):
        x = 1.0 / (d[n - 1] + shift + b[k])
        high[k] = x
        q[(n - 1) * K + k] = 0.0
        r[(n - 1) * K + k] = x
        scaled[(n - 1) * K + k] = w[k] * x
    for j in range(n - 2, -1, -1):
        for k in range(K):
            p = -e[j] * high[k]
            x = 1.0 / (e[j] * p + (d[j] + shift + b[k]))
            high[k] = x
            q[j * K + k] = p
            r[j * K + k] = x
            scaled[j * K + k] = w[k] * x


def _sweeps(take):
    """Return the two solves of a block of columns, as wide as `take` is."""

    @stage()
    def left(G, Y, c, step, n, q, r, k, K):
        """Y = R G in the columns from c on."""
        v = take(G, (n - 1) * step + c)
        keep(Y, (n - 1) * step + c, v)
        for j in range(n - 2, -1, -1):
            v = plus_multiple(take(G, j * step + c), q[j * K + k], v)
            keep(Y, j * step + c, v)
        v = multiple(r[k], v)
        keep(Y, c, v)
        for j in range(1, n):
            v = plus_multiple(multiple(r[j * K + k], take(Y, j * step + c)), q[(j - 1) * K + k], v)
            keep(Y, j * step + c, v)

    @stage()
    def right(Y, Z, c, step, n, m, q, r, k, K):
        """Z += R Y in the columns from c on, and the first m rows; Y is overwritten."""
        v = take(Y, (n - 1) * step + c)
        for j in range(n - 2, -1, -1):
            v = plus_multiple(take(Y, j * step + c), q[j * K + k], v)
            keep(Y, j * step + c, v)
        v = multiple(r[k], v)
        keep(Z, c, take(Z, c) + v)
        for j in range(1, m):
            v = plus_multiple(multiple(r[j * K + k], take(Y, j * step + c)), q[(j - 1) * K + k], v)
            keep(Z, j * step + c, take(Z, j * step + c) + v)

    return left, right


left_one, right_one = _sweeps(take_one)
left_four, right_four = _sweeps(take_four)


@stage()
def add_poles(G, Z, X, Y, step, n, wide, half, q, r, scaled, K):
    """Z += sum over k of w_k R_k G R_k; if `half`, its upper triangle at least, and G is symmetric.

    Matrices are flat, with rows `step` numbers apart, and 0 from n on to whole registers of `wide` numbers; X and Y
    are work space.
    """
    width = -(-n // wide) * wide
    for k in range(K):
        c = 0
        while c + 4 * wide <= width:
            left_four(G, X, c, step, n, q, r, k, K)
            c += 4 * wide
        while c < width:
            left_one(G, X, c, step, n, q, r, k, K)
            c += wide
        for i in range(0, width, wide):
            for j in range(0, width, wide):
                turn(X, i * step + j, step, Y, j * step + i, step)
        c = 0
        while c + 4 * wide <= width:
            right_four(Y, Z, c, step, n, min(n, c + 4 * wide) if half else n, q, scaled, k, K)
            c += 4 * wide
        while c < width:
            right_one(Y, Z, c, step, n, min(n, c + wide) if half else n, q, scaled, k, K)
            c += wide
