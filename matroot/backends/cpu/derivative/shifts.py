# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""The ridge of a derivative: its size, and its motion with the largest eigenvalue; and the class of its poles."""

from __future__ import annotations

import math

import numpy as np
from numba.types import boolean, float64, int64

from matroot.backends.cpu.tridiagonal.stage import stage

#: An exponent that no number has.
NOT_FINITE = 1 << 20
#: Eigenvalues that agree up to this times the largest are one.
EQUAL = 2.0**-42
#: Below this an eigenvalue is nothing beside the ridge, which is about 1, and T is A for sums with the ridge only.
FAINT = 2.0**-200
#: Steps of Rayleigh's iteration at most, and the change of the eigenvalue, relative to the largest, that is the last.
STEPS, SETTLED = 6, 2.0**-51


@stage(float64, float64)
def shift_of(given, relative, absolute, top, unit):
    """Return the shift, in the units of T, and how far it moves with the largest eigenvalue.

    `given` is the shift that was used, in the caller's units, negative where it is that of the rule; a retry has
    raised the rule by a power of 10.
    """
    by_rule = relative * top + absolute * unit
    if given < 0.0:
        return by_rule, relative
    delta = given * unit
    if delta == 0.0:
        return delta, 0.0
    return delta, relative * (10.0 ** np.round(math.log10(delta / by_rule)) if by_rule > 0.0 else 1.0)


@stage(float64)
def root_of(exponent, a, b):
    """Compute 2^(exponent a / 2 b); in integers, since an exponent may be a thousand times the error of a / b."""
    whole = exponent * a // (2 * b)
    return math.ldexp(2.0 ** ((exponent * a - whole * 2 * b) / (2 * b)), whole)


@stage(int64)
def take_poles(low, high, s, poles, weights, counts, b, w):
    """Fill b and w with the poles and weights for eigenvalues in [low, high]; return how many, 0 if there are none.

    Their number is made even by a pole that weighs nothing.
    """
    if not (low > 0.0 and high < np.inf):
        return 0
    row, bound = 0, 4.0
    while row < counts.size and not high <= bound * low:
        row, bound = row + 1, 4.0 * bound
    if row == counts.size:
        return 0
    scale = high ** (1.0 + s)
    for k in range(counts[row]):
        b[k] = poles[row, k] * high
        w[k] = weights[row, k] * scale
    b[counts[row]], w[counts[row]] = high, 0.0
    return (counts[row] + 1) // 2 * 2


@stage(int64)
def exponent_of(bits):
    """Return e with the largest entry below 2^e, up to what one factor can undo, or `NOT_FINITE`.

    The bits of the entries, as integers, are in the order of their sizes.
    """
    single = bits.itemsize == 4
    least = bits.dtype.type(0)
    mask, most = bits.dtype.type(0x7FFFFFFF if single else 0x7FFFFFFFFFFFFFFF), least
    for i in range(bits.shape[0]):
        for j in range(bits.shape[1]):
            most = max(most, bits[i, j] & mask)
    exponent = np.int64(most >> (23 if single else 52))
    if exponent == (255 if single else 2047):
        return NOT_FINITE
    bound = 120 if single else 1000
    return max(-bound, min(bound, exponent - (126 if single else 1022)))


@stage(int64, int64)
def counts_above(d, e, low, high):
    """Count the eigenvalues of T above two numbers (Sturm)."""
    more, less, one, other = 0, 0, 0.0, 0.0
    for i in range(d.size):
        x, y = d[i] - low - one, d[i] - high - other
        more += x > 0.0
        less += y > 0.0
        one, other = e[i] * e[i] / x, e[i] * e[i] / y
    return more, less


@stage(boolean)
def top_eigenvector(d, e, top, v):
    """Fill v, up to n, with the unit eigenvector of the largest eigenvalue; return False if it is multiple or faint.

    `top` is about that eigenvalue. Beside a close one it is not good to EQUAL, and is found by bisection.
    """
    size = abs(top)
    for i in range(d.size):
        size = max(size, abs(d[i]))
    if size < FAINT:
        return False
    width = EQUAL * size
    low, high = top - width, top + width
    count, beyond = counts_above(d, e, low, high)
    if count == 0 or beyond > 0:
        step = width
        while (count == 0 or beyond > 0) and step < 4.0 * size:
            step *= 4.0
            low, high = low - step if count == 0 else low, high + step if beyond > 0 else high
            count, beyond = counts_above(d, e, low, high)
        while high - low > width:
            trial = 0.5 * (low + high)
            _, beyond = counts_above(d, e, trial, trial)
            low, high = trial if beyond > 0 else low, high if beyond > 0 else trial
        top = 0.5 * (low + high)
        count, _ = counts_above(d, e, top - width, high)
    if count > 1:
        return False
    for _ in range(STEPS):
        more = correction(d, e, top, size, v)
        top += more
        if abs(more) <= SETTLED * size:
            break
    return True


@stage(float64)
def correction(d, e, x, size, v):
    """Fill v with the eigenvector nearest to the eigenvalue x, and return what x lacks; v has room for 3 n numbers.

    By the pivots of T - x from above and from below, and the row in which they meet best (Parlett & Dhillon 1997).
    """
    n, tiny = d.size, 2.0**-60 * size
    above, below = v[n : 2 * n], v[2 * n : 3 * n]
    up, down = 0.0, 0.0
    for i in range(n):  # two recurrences, neither of which waits for the other
        j = n - 1 - i
        y, z = d[i] - x - up, d[j] - x - down
        above[i] = y if abs(y) > tiny else -tiny
        below[j] = z if abs(z) > tiny else -tiny
        up = e[i] * e[i] / above[i]
        down = e[j - 1] * e[j - 1] / below[j] if j > 0 else 0.0
    best, gap = 0, np.inf
    for i in range(n):
        y = above[i] + below[i] - (d[i] - x)
        if abs(y) < abs(gap):
            best, gap = i, y
    for i in range(best):
        above[i] = -e[i] / above[i]
    for i in range(best + 1, n):
        below[i] = -e[i - 1] / below[i]
    v[best] = square = 1.0
    for i in range(best - 1, -1, -1):
        v[i] = above[i] * v[i + 1]
        square += v[i] * v[i]
    for i in range(best + 1, n):
        v[i] = below[i] * v[i - 1]
        square += v[i] * v[i]
    length = math.sqrt(square)
    for i in range(n):
        v[i] /= length
    return gap / square


@stage()
def move(M, slope, v, given):
    """Add what the motion of the ridge brings: before the poles (`given`) v^T M v I, after them trace(M) v v^T."""
    n = v.size // 3
    total = 0.0
    for i in range(n):
        if given:
            row = 0.0
            for j in range(n):
                row += M[i, j] * v[j]
            total += row * v[i]
        else:
            total += M[i, i]
    for i in range(n):
        if given:
            M[i, i] += slope * total
        else:
            for j in range(n):
                M[i, j] += slope * total * v[i] * v[j]
