"""Roots through LAPACK's tridiagonal reduction, one matrix after the other: the fast way for all but small ones."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from matroot._bars import VOUCHED, forward_error_bound
from matroot._regularization import Coefficients
from matroot.backends.cpu.blas import blas_threads, held_in_its_thread, one_blas_thread
from matroot.backends.cpu.cpu import in_threads
from matroot.backends.cpu.tridiagonal.pole_table import table
from matroot.backends.loading import deferred
from matroot.methods.base import Array, FloatArray
from matroot.methods.conditioning import steps
from matroot.methods.tridiagonal_form import Form, Reduced, form_in, in_pairs, padded, readable
from matroot.methods.tridiagonal_large_cut import LARGEST_COND, Kept, kept, residual
from matroot.methods.tridiagonal_report import (
    IN_SINGLE,
    LIFT,
    NEGATIVE,
    NONE,
    SERVED,
    UNCUT,
    CutReport,
    Report,
    part_of,
    pole_level,
    probes,
    root_of,
    zero_share,
)
from matroot.methods.tridiagonal_single import CLUSTER, LEAST, UNIT, may_be_single, moved, returns_in_single

#: Reflectors that go together in BLAS, up to which n: few leave less beside the large products, many make those fast.
PANELS = ((400, 16), (900, 32), (math.inf, 48))
#: Below this share of lambda_max, times n, an eigenvalue is rounding.
ROUNDING = 2.0**-51


def large_roots(
    stack: Array,
    out: Array,
    s: Fraction,
    rule: Coefficients = NONE,
    *,
    rtol: float | None = None,
    wide: bool = False,
    begun: Sequence[Reduced] | None = None,
    noise: float = 0.0,
) -> Report | CutReport:
    """Compute A'^s for a stack of symmetric or Hermitian matrices, like `small_roots`.

    Parameters
    ----------
    stack, out : array (B, n, n)
    s : Fraction
        -1 <= s <= LARGEST_POWER of `tridiagonal`, not 0.
    rule : Coefficients
    rtol : float, optional
        A matrix is not served if the error of the reduction may exceed `rtol`.
    wide : bool
        In double precision, whatever `rtol` permits.
    begun : sequence, optional
        What `reductions` gave for the same stack; without an `rtol`.
    noise : float
        If s > 0 and it is not 0, singular matrices are served too; see `tridiagonal_cut.cut_roots`.

    Returns
    -------
    Report
        A `CutReport` if the rule cuts; matrices with eigenvalues below the cut are served like the others. `served` is
        IN_SINGLE where single precision was used.
    """
    B, n, _ = stack.shape
    kind = CutReport if rule.cuts else Report
    report = np.zeros((len(kind._fields), B))
    one = Solver(n, out.dtype, s, rule, rtol, wide, noise)

    def work(part: slice) -> None:
        for i in range(part.start, part.stop):
            report[:, i] = one(stack[i], out[i], None if begun is None else begun[i])

    one_by_one(work, B)
    return kind(*report)


def reductions(stack: Array, s: Fraction, rule: Coefficients = NONE, kept: FloatArray | None = None) -> list[Reduced]:
    """Return the tridiagonal forms of a stack of symmetric or Hermitian matrices: the first half of `large_roots`.

    They lie in `kept`, of `room_of`, if it is given; matrices are real then.
    """
    n, found = stack.shape[-1], {}
    one = Solver(n, np.result_type(stack.dtype, np.float32), s, rule, None, True)

    def work(part: slice) -> None:
        for i in range(part.start, part.stop):
            place = None if kept is None else form_in(kept[i], n)
            found[i] = one.reduced(one.as_readable(stack[i]), one.double, place)

    one_by_one(work, len(stack))
    return [found[i] for i in range(len(stack))]


def one_by_one(work: Callable[[slice], None], B: int) -> None:
    """Call `work` for every matrix of a stack, on several threads."""
    with one_blas_thread():
        in_threads(held_in_its_thread(work), [slice(i, i + 1) for i in range(B)])


def panel_width(n: int) -> int:
    """Return how many reflectors go together."""
    return next(width for most, width in PANELS if n <= most)


class Solver:
    """The options that all matrices of a stack share.

    Little Python stands between the compiled loops: it is slow once these have taken the caches.
    """

    def __init__(
        self,
        n: int,
        dtype: np.dtype[Any],
        s: Fraction,
        rule: Coefficients,
        rtol: float | None,
        wide: bool,
        noise: float = 0.0,
    ) -> None:
        self.compiled: Any = deferred("matroot.backends.cpu.large.kernel")
        self.raised: Any = s > 1 and deferred("matroot.methods.tridiagonal_powers").raised
        routines = deferred("matroot.backends.cpu.large.blas").routines
        is_complex = dtype.kind == "c"
        kinds: Any = (np.complex64, np.complex128) if is_complex else (np.float32, np.float64)
        self.single, self.double = kinds
        self.blas = {self.single: routines("sc"[is_complex]), self.double: routines("dz"[is_complex])}
        self.s, self.rule, self.rtol, self.noise = s, rule, rtol, noise
        self.more, self.whole = max(math.ceil(s) - 1, 0), s > 1 and s.denominator == 1
        self.wide = wide or self.more > 0
        self.numbers = float(rule.relative), float(rule.absolute), float(rule.smallest), rule.cuts
        self.poles = table(-s if s < 0 else 1 - part_of(s), pole_level(dtype == self.single, rtol))
        self.counts, self.edges = self.poles.counts.astype(int).tolist(), self.poles.edges.tolist()
        self.power = float(1 + s if s < 0 else part_of(s))
        self.width = panel_width(n)
        self.real = not is_complex
        self.order = np.array(steps(s), np.int64)
        self.probes: Array = probes(n, is_complex)
        if is_complex:
            self.probes = self.probes[:n] + 1j * self.probes[n:]
        self.pairs = np.hstack([self.probes.real, self.probes.imag]) if is_complex else self.probes

    def as_readable(self, a: Array) -> Array:
        """Return `a`, or a copy that the compiled loops take; single precision is kept."""
        return a if readable(a) else np.array(a, a.dtype if a.dtype == self.single else self.double, order="C")

    def __call__(self, a: Array, out: Array, begun: Reduced | None = None) -> tuple[float, ...]:
        """Fill `out` and return the fields of `Report`; zeros where the matrix is not served."""
        S = self.as_readable(a)
        back = not self.wide and returns_in_single(S, out, self.rtol)
        if back and may_be_single(S, self.s, self.rule, self.rtol or 0.0):
            facts = self.solve(S, out, self.single, self.single)
            if facts[0]:
                return facts
        return self.solve(S, out, self.double, self.single if back else self.double, begun)

    def reduced(self, S: Array, kind: Any, place: tuple[Form, FloatArray] | None = None) -> Reduced:
        """Return the tridiagonal form of S in a precision, in arrays of its own unless they are given."""
        if place is None:
            n = len(S)
            place = (padded(n, kind), *np.empty((2, n)), np.empty(n, self.double)), np.empty(2)
        form, halves = place
        return Reduced(form, halves, *self.tridiagonal(S, form, halves))

    def tridiagonal(self, S: Array, form: Form, halves: FloatArray) -> tuple[bool, int]:
        """Fill in the form of S and its scale; return whether it is symmetric, without which this is not done."""
        if self.by_tiles():
            found = self.compiled.reduced(S, *form, halves, self.numbers[1])
        else:
            found = self.compiled.reduced_by_blas(self.blas[form[0].dtype.type], S, *form, halves, self.numbers[1])
        return bool(found[0]), int(found[1])

    def by_tiles(self) -> bool:
        """Return True unless BLAS is faster, with several threads, or needed, for complex matrices."""
        return self.real and blas_threads() == 1

    def solve(self, S: Array, out: Array, kind: Any, back: Any, begun: Reduced | None = None) -> tuple[float, ...]:
        """`__call__`, with a reduction and a way back in these precisions; float32 reduces symmetric matrices alone."""
        n, none = len(S), (0.0,) * len(Report._fields) + UNCUT * self.rule.cuts
        relative, absolute, smallest, cuts = self.numbers
        (A, d, e, tau), halves, symmetric, exponent = self.reduced(S, kind) if begun is None else begun
        gap = 0.0
        if not symmetric:
            if kind == self.single:
                return none
            given, S = S, np.empty((n, n), self.double)
            gap = self.compiled.symmetrized(given, S)
            if not gap < math.inf:
                return none
            _, exponent = self.tridiagonal(S, (A, d, e, tau), halves)
        one, other = 2.0 ** (exponent // 2), 2.0 ** (exponent - exponent // 2)
        if not 0.0 < (factor := root_of(exponent, self.s)) < math.inf:
            return none
        low, high = self.compiled.ends(d, e)
        shift = relative * high + absolute / one / other
        if smallest and low < -high:
            return none
        shift = max(shift - smallest * low, 0.0) if smallest else shift
        if cuts:
            if low <= shift + n * ROUNDING * high:
                facts = self.cut(S, out, (A, d, e, tau), (low, high, shift), halves, factor)
                if facts is None:
                    return none
                error, bottom, cond, *rest = facts
                return SERVED, gap, error, bottom * one * other, high * one * other, 0.0, cond, *rest
            shift = 0.0
        bottom, top = low + shift, high + shift
        numbers = bottom * one * other, high * one * other, shift * one * other
        cond = max(top / bottom, 1.0) if bottom > 0 else math.inf
        if self.whole and top > 0 and bottom >= -(self.noise + n * gap / 2) * top * (self.noise > 0):
            served, error = self.raised(self, S, out, None, shift, halves, factor)
            return served, gap, error, max(numbers[0], 0.0), *numbers[1:], cond, *(UNCUT * cuts)
        singular = self.noise > 0 and kind == self.double and not bottom > top / self.edges[-1]
        near = singular and top > 0 and bottom >= -zero_share(self.noise, n, self.s, self.rtol) * top
        if singular and not near:
            facts = self.semidefinite(S, out, (A, d, e, tau), (low, high, gap), halves, factor)
            if facts is not None:
                error, bottom, cond = facts
                return SERVED, gap, error, bottom * one * other, high * one * other, 0.0, cond
        lifted = max(LIFT * top - bottom, 0.0) if near else 0.0
        if bottom + lifted <= 0 and kind == self.double and np.isfinite(S).all():
            return NEGATIVE, gap, 0.0, *numbers, 1.0, *(UNCUT * cuts)
        if not 0 < bottom + lifted <= top < math.inf:
            return none
        row = self.poles.singular if near else bisect_left(self.edges, cond)
        if row == len(self.edges):
            return none
        if shift + lifted:
            d = d + (shift + lifted)
        if self.rtol is not None and not near and self.errs_by(d, e, bottom, top, kind) > self.rtol:
            return none
        if back != kind or begun is not None:  # the root is written over A
            form, A = A, padded(n, back)
            with np.errstate(all="ignore"):  # the lower triangle is not set
                A[:n, :n] = form[:n, :n]
        some = slice(self.counts[row])
        b, w, direct = self.poles.b[row, some], self.poles.w[row, some], self.poles.direct
        F = self.compiled.poles(d, e, b, w, top, top**self.power, direct, self.s > 0)
        if self.by_tiles():
            self.compiled.root(A, tau, F)
        else:
            self.compiled.root_by_blas(self.blas[back], A, tau, F, self.width)
        if near:
            nothing = np.flatnonzero(S.diagonal() == 0)
            A[nothing], A[:, nothing] = 0, 0
            numbers = max(numbers[0], 0.0), *numbers[1:]
        if self.more:
            served, error = self.raised(self, S, out, A[:n, :n], shift, halves, factor)
            return served, gap, error, *numbers, cond, *(UNCUT * cuts)
        X = out if out.dtype == back and readable(out) else np.empty((n, n), back)
        self.compiled.written(A, X, out, factor)
        if self.s.numerator < -1:
            by_solves = deferred("matroot.methods.tridiagonal_solves").residual
            error = by_solves(S, X, shift, halves, factor, self.probes, self.s)
        else:
            error = self.compiled.certificate(in_pairs(S), in_pairs(X), shift, halves, factor, self.pairs, self.order)
        served = (IN_SINGLE if back == self.single else SERVED) if math.isfinite(error) else 0.0
        return served, gap, error, *numbers, cond, *(UNCUT * cuts)

    def cut(
        self, S: Array, out: Array, form: Form, ends: tuple[float, ...], halves: FloatArray, factor: float
    ) -> tuple[float, ...] | None:
        """Fill `out` with the root of a matrix that is cut; return the fields of the report that are not known yet."""
        (low, high, cut), drops = ends, self.rule.drops
        if not (high > 0 and (drops or cut > 0)):
            return None
        found = kept(form, cut, drops)
        if found is None or (drops and not len(found.w)):
            return None
        most = max(high, 0.0 if drops else cut)
        least = cut if found.changed and not drops else float(found.w[0])
        if not most <= LARGEST_COND * least:
            return None
        X = self.written(out, found, 0.0 if drops else cut ** float(self.s), factor)
        with np.errstate(over="ignore", invalid="ignore"):
            error = residual(S, X, found, None if drops else cut, halves, factor, self.probes, self.order)
        if not math.isfinite(error):
            return None
        bottom = 0.0 if drops and found.changed else least
        return error, bottom, most / least, float(found.changed), found.excess(self.s, low, most, drops)

    def semidefinite(
        self, S: Array, out: Array, form: Form, ends: tuple[float, ...], halves: FloatArray, factor: float
    ) -> tuple[float, float, float] | None:
        """Fill `out` with a power s > 0 of a matrix whose negative eigenvalues are noise.

        Return the residual, the smallest eigenvalue and the condition number.
        """
        low, high, gap = ends
        if not (high > 0 and low >= -(self.noise + len(S) * gap / 2) * high):
            return None
        found = kept(form, 0.0, drops=True)
        if found is None or not len(found.w):
            return None
        X = self.written(out, found, 0.0, factor)  # the certificate is that of A, which is not cut
        error = self.compiled.certificate(in_pairs(S), in_pairs(X), 0.0, halves, factor, self.pairs, self.order)
        if not math.isfinite(error):
            return None
        return (error, 0.0, math.inf) if found.changed else (error, float(found.w[0]), high / float(found.w[0]))

    def written(self, out: Array, found: Kept, goal: float, factor: float) -> Array:
        """Write the root of a decomposed matrix to `out`, with `goal` for what is not kept; return it in double."""
        X = out if out.dtype == self.double and readable(out) else np.empty(out.shape, self.double)
        with np.errstate(over="ignore", invalid="ignore"):
            found.root(float(self.s), goal, factor, X)
            if X is not out:
                out[...] = X
                X[...] = out
        return X

    def errs_by(self, d: FloatArray, e: FloatArray, bottom: float, top: float, kind: Any) -> float:
        """Bound the forward error; return 0 if the certificate refuses the rtol for every method."""
        share, size = self.compiled.smallest_share(d, e, CLUSTER * bottom)
        bound = float(forward_error_bound(np.float64(top / bottom), self.s, UNIT[kind]))
        if kind == self.double and VOUCHED * bound > (self.rtol or 0.0):
            return 0.0
        return float(bound * max(LEAST[kind], moved(len(d), share, size / top)))
