# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""Roots of many small matrices: eight at a time through reduction, poles, the way back and the certificate.

A = H T H^T with T tridiagonal; A^s = H r(T) H^T, where r is a sum of poles (`poles`) and the inverse of
a shifted tridiagonal matrix costs two operations an entry. No eigenvector is ever formed. For s > 1, r is that of the
exponent less a whole number, times so many factors T, at three operations an entry each.
"""

from __future__ import annotations

import sys
import zlib
from pathlib import Path

from numba import types
from numba.types import boolean, float64, int64

from matroot.backends.cpu.compiled import compiled
from matroot.backends.cpu.tridiagonal.certificate import distance, products
from matroot.backends.cpu.tridiagonal.lanes import any_less, full, sqrt
from matroot.backends.cpu.tridiagonal.layout import (
    ahead,
    clear,
    gather,
    in_units,
    keep_form,
    move_diagonal,
    scaled,
    scatter,
)
from matroot.backends.cpu.tridiagonal.memory import address, after, index, load, number, put, store, triangle
from matroot.backends.cpu.tridiagonal.pole_sums import add_poles, times_tridiagonal
from matroot.backends.cpu.tridiagonal.reduction import extreme_eigenvalues, transform_back, tridiagonalize
from matroot.backends.cpu.tridiagonal.stage import stage

#: Columns of a report: `ROOT` if served here, asymmetry, residual, lambda_min(A'), lambda_max(A), ridge, cond.
SERVED, ASYMMETRY, RESIDUAL, LOW, HIGH, RIDGE, COND = range(7)
#: What became of a matrix: it is not served, its root is there, a rule may cut its spectrum, or it is not positive.
REFUSED, ROOT, CUT, NEGATIVE = 0.0, 1.0, 2.0, 4.0
#: Beside a cut, n epsilons of lambda_max are rounding errors.
ROUNDING = 2.0**-51
#: As in `methods.tridiagonal_report`.
LIFT = 2.0**-52
#: Up to this n the next eight matrices are fetched, a third at a time, while these are computed: few lines of each
#: lie in a row, so that the machine does not see what comes.
AHEAD = 16
#: The largest number.
LARGEST = sys.float_info.max


@stage()
def solve(
    stack,
    out,
    report,
    B,
    n,
    a,
    b,
    relative,
    absolute,
    smallest,
    cuts,
    noise,
    poles,
    weights,
    counts,
    classes,
    K,
    direct,
    probes,
    order,
    steps,
    single,
    room,
    keeps,
    forms,
):
    """A^(a/b) for the matrices of a stack.

    Parameters
    ----------
    stack, out : B x n x n numbers
    report : B x 7
        Filled in; its columns are named at the top of this file.
    a, b : int
        -b <= a and not 0.
    relative, absolute, smallest, cuts : float, float, float, bool
        See `matroot._regularization.Coefficients`.
    noise : float
        The share of lambda_max up to which a negative eigenvalue is one of rounding, for a > 0; or 0.
    poles, weights, counts, direct : classes x K, classes x K, 2 classes + 1, and int
        See `pole_table.Table`; after the counts come the edges of the classes, and the class of singular matrices.
    probes, order : n x 8, steps
        See `residual`.
    single : bool
        Whether X is rounded to float32.
    room
        Work space, of `methods.small.room`.
    keeps : bool
        Whether `forms` are filled in, the tridiagonal forms for the derivative; see `keep_form`.
    """
    entries = triangle(n)
    A = room
    A0 = after(A, entries)
    F = after(A0, entries)
    d = after(F, entries)
    e = after(d, n)
    tau = after(e, n)
    lane_poles = after(tau, 2 * n)
    lane_weights = after(lane_poles, K)
    facts = after(lane_weights, K)
    work = after(facts, 15)
    halves, low, high, finite = facts, after(facts, 2), after(facts, 3), after(facts, 4)
    gap, factor, shift, added = after(facts, 5), after(facts, 6), after(facts, 7), after(facts, 8)
    rows, tops, scales = after(facts, 9), after(facts, 10), after(facts, 11)
    doubles, nudge = after(facts, 12), after(facts, 14)
    more = (a - 1) // b if a > 0 else 0
    zero, unity, s = full(0.0), full(1.0), (a - more * b) / b
    whole = a > 1 and b == 1  # no poles, so that any condition number will do
    power = 1.0 + s if s < 0.0 else s
    rooted = power == 0.5 or power == 0.75
    for first in range(0, B, 8):
        count = B - first if B - first < 8 else 8
        gather(stack, first, count, n, A, A0, work)
        soon, part = (first + 8) * n * n, (n * n + 2) // 3 if first + 16 <= B and n <= AHEAD else 0
        ahead(stack, soon, 0, part)
        store(finite, 0, scaled(A, A0, n, a, b, absolute, halves, factor, gap))
        for half in range(2):
            store(doubles, half, unity / load(halves, half))
        tridiagonalize(A, n, d, e, tau, work)
        ahead(stack, soon, part, 2 * part)
        bottom_of, top_of = extreme_eigenvalues(d, e, n)
        store(low, 0, bottom_of)
        store(high, 0, top_of)
        if keeps:
            keep_form(A, d, e, tau, halves, low, high, finite, n, first, count, forms, work)
        ahead(stack, soon, 2 * part, 3 * part)
        longest, some, alike = 0, 0, True
        for t in range(8):
            one_half, other_half = number(halves, t), number(halves, 8 + t)
            top = number(high, t)
            bottom = number(low, t)
            moved = relative * top + absolute * one_half * other_half
            cut = moved + n * ROUNDING * top
            if cuts:
                moved = 0.0
            elif smallest > 0.0:
                moved -= smallest * bottom
                moved = moved if moved > 0.0 else 0.0
            fine = number(finite, t) == 0.0 and (smallest == 0.0 or bottom >= -top)
            apart = not cuts or bottom > cut
            bottom += moved
            one, other = number(doubles, t), number(doubles, 8 + t)  # back to the units of the caller
            largest = top * one * other
            top += moved
            cond = top / bottom
            row = 0
            while row < classes and not (whole or cond <= number(counts, classes + row)):
                row += 1
            lifted = 0.0
            if noise > 0.0 and row == classes and bottom > n * LIFT * top:
                row = classes - 1  # right to less than that, where the poles of singular matrices give nearly 0
            if noise > 0.0 and top > 0.0 and not (bottom > 0.0 and row < classes) and bottom >= -noise * top:
                row, lifted = 0 if whole else index(counts, 2 * classes), max(LIFT * top - bottom, 0.0)
                bottom = bottom if bottom > 0.0 else 0.0
                cond = top / bottom
            served = fine and apart and (bottom > 0.0 or lifted > 0.0) and row < classes
            some += served
            if t < count:
                line = 7 * (first + t)
                failed = NEGATIVE if fine and bottom <= 0.0 else REFUSED
                put(report, line + SERVED, ROOT if served else failed if apart or not fine else CUT)
                put(report, line + ASYMMETRY, number(gap, t))
                put(report, line + RESIDUAL, 0.0)
                put(report, line + LOW, bottom * one * other)
                put(report, line + HIGH, largest)
                put(report, line + COND, 1.0 if cond < 1.0 else cond)
                put(report, line + RIDGE, moved * one * other)
            if not served:  # an identity takes its place
                row, top, moved, lifted = 0, 1.0, 0.0, 0.0
                put(factor, t, 1.0)
                for i in range(n):
                    put(d, 8 * i + t, 1.0)
                    put(e, 8 * i + t, 0.0)
            if longest < index(counts, row):
                longest = index(counts, row)
            put(rows, t, float(row))
            alike = alike and row == index(rows, 0)
            put(tops, t, top)
            put(scales, t, 1.0 if rooted else top**power)
            put(shift, t, moved)
            put(nudge, t, lifted)
        if some == 0:
            for k in range(count * n * n):
                put(out, first * n * n + k, 0.0)
            continue
        constant, unit, scale = zero, load(tops, 0), load(scales, 0)
        if rooted:  # the powers of p = 2 and 4
            scale = sqrt(unit)
            scale = scale * sqrt(scale) if power == 0.75 else scale
        if alike:
            at = K * index(rows, 0)
            for k in range(longest):
                store(lane_poles, k, full(number(poles, at + k)))
                store(lane_weights, k, full(number(weights, at + k)))
        for t in range(0 if alike else 8):
            at = K * index(rows, t)
            for k in range(longest):
                put(lane_poles, 8 * k + t, number(poles, at + k))
                put(lane_weights, 8 * k + t, number(weights, at + k))
        for k in range(longest):
            pole, weight = load(lane_poles, k) * unit, load(lane_weights, k) * scale
            if s > 0.0 and k >= direct:
                constant = constant + weight
                weight = -pole * weight
            store(lane_poles, k, pole)
            store(lane_weights, k, weight)
        store(added, 0, constant)
        delta = load(shift, 0)
        move_diagonal(A0, n, delta)
        delta = delta if whole else delta + load(nudge, 0)
        for i in range(n):
            store(d, i, load(d, i) + delta)
        for k in range(entries):
            store(F, k, zero)
        split = direct if s > 0.0 else longest
        for second in range(2):  # direct poles, whose sum is multiplied by T for s > 0, and the others
            if second == 1 and s > 0.0:
                times_tridiagonal(F, d, e, n)
                move_diagonal(F, n, load(added, 0))
            add_poles(F, d, e, lane_poles, lane_weights, split * second, longest if second else split, n, work)
        for _ in range(more):
            times_tridiagonal(F, d, e, n)
        transform_back(F, A, n, tau, work)
        if any_less(zero, load(nudge, 0)):
            clear(F, A0, n)
        in_units(F, A, n, load(factor, 0), single)
        scatter(F, first, count, n, out, work)
        products(A0, A, n, probes, order, steps, a < -1, work)
        store(finite, 0, distance(work, after(work, 8 * n), n))
        for t in range(count):
            line = 7 * (first + t)
            put(report, line + RESIDUAL, number(finite, t))
            if number(report, line + SERVED) == ROOT and not number(finite, t) <= LARGEST:  # a root that overflows, say
                put(report, line + SERVED, REFUSED)


def array(kind, ndim, readonly=True):
    """Return the type of a C-ordered array; one that may be written also passes for a read-only one."""
    return types.Array(kind, ndim, "C", readonly=readonly)


def _kernel(sources):
    """`solve` for Python. numba's cache on disk knows a function by its file and by what it closes over."""

    # One signature, so that nothing is compiled twice.
    @compiled(
        types.void(
            *(array(float64, 3), array(float64, 3, False), array(float64, 2, False)),
            *(int64, int64, float64, float64, float64, boolean, float64),
            *(array(float64, 2), array(float64, 2), array(float64, 1), int64),
            *(array(float64, 2), array(float64, 1), boolean, array(float64, 1, False)),
            array(float64, 2, False),
        ),
        error_model="numpy",
        nogil=True,
    )
    def roots(
        stack,
        out,
        report,
        a,
        b,
        relative,
        absolute,
        smallest,
        cuts,
        noise,
        poles,
        weights,
        counts,
        direct,
        probes,
        order,
        single,
        room,
        forms,
    ):
        sources  # noqa: B018
        solve(
            address(stack),
            address(out),
            address(report),
            stack.shape[0],
            stack.shape[1],
            a,
            b,
            relative,
            absolute,
            smallest,
            cuts,
            noise,
            address(poles),
            address(weights),
            address(counts),
            poles.shape[0],
            poles.shape[1],
            direct,
            address(probes),
            address(order),
            order.shape[0],
            single,
            address(room),
            forms.shape[0] > 0,
            address(forms),
        )

    return roots


def digest() -> int:
    """Of this file and those that it is made of."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return zlib.crc32(b"".join(path.read_bytes() for path in files))


roots = _kernel(digest())
