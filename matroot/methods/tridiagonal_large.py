"""Roots through the tridiagonal form, one matrix after the other: the fast way for all but small ones."""

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
from matroot.methods.tridiagonal_form import Form, Reduced, Taken, beside, form_in, in_pairs, padded, readable
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


#: Order up to which two threads of BLAS are no faster than the tiles on one: 1.5 ms for 1.2 at 256, 6.3 for 6.4 at 512.
ONE_CORE = 512


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
        self.by_vectors: Any = deferred("matroot.methods.tridiagonal_large_cut") if rule.cuts or noise > 0 else None
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
        self.uncut = UNCUT * rule.cuts
        self.none = (0.0,) * len(Report._fields) + self.uncut
        self.poles = table(-s if s < 0 else 1 - part_of(s), pole_level(dtype == self.single, rtol))
        self.counts, self.edges = self.poles.counts.astype(int).tolist(), self.poles.edges.tolist()
        self.least = min(1 / self.edges[-1], n * LIFT)  # smaller shares of the largest eigenvalue may be rounding
        self.power = float(1 + s if s < 0 else part_of(s))
        self.width = panel_width(n)
        self.real, self.n = not is_complex, n
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

    def reduced(self, S: Array, kind: Any, place: tuple[Form, FloatArray, FloatArray] | None = None) -> Reduced:
        """Return the tridiagonal form of S in a precision, in arrays of its own unless they are given."""
        if place is None:
            n = len(S)
            place = (padded(n, kind), *np.empty((2, n)), np.empty(n, self.double)), *np.empty((2, 2))
        form, halves, ends = place
        ends[:] = math.nan
        return Reduced(form, halves, ends, *self.tridiagonal(S, form, halves))

    def tridiagonal(self, S: Array, form: Form, halves: FloatArray) -> tuple[bool, int]:
        """Fill in the form of S and its scale; return whether it is symmetric, without which this is not done."""
        if self.by_tiles():
            found = self.compiled.reduced(S, *form, halves, self.numbers[1])
        else:
            found = self.compiled.reduced_by_blas(self.blas[form[0].dtype.type], S, *form, halves, self.numbers[1])
        return bool(found[0]), int(found[1])

    def by_tiles(self) -> bool:
        """Return True unless BLAS is faster, with several threads, or needed, for complex matrices."""
        return self.real and (self.n <= ONE_CORE or blas_threads() == 1)

    def solve(self, S: Array, out: Array, kind: Any, back: Any, begun: Reduced | None = None) -> tuple[float, ...]:
        """`__call__`, with a reduction and a way back in these precisions; float32 reduces symmetric matrices alone."""
        M = self.taken(S, kind, begun)
        if M is None:
            return self.none
        if self.rule.cuts:
            if M.low <= M.shift + len(S) * ROUNDING * M.high:
                return self.by_vectors.cut(self, M, out) or self.none
            M = M._replace(shift=0.0)
        if self.whole and M.is_semidefinite(self.noise):
            served, error = self.raised(self, M.S, out, None, M.shift, M.halves, M.factor)
            return M.facts(served, error, max(M.bottom, 0.0)) + self.uncut
        near = False
        if self.noise > 0 and kind == self.double and not M.bottom > self.least * M.top:
            near = M.top > 0 and M.bottom >= -zero_share(self.noise, len(S), self.s, self.rtol) * M.top
            facts = None if near else self.by_vectors.semidefinite(self, M, out)
            if facts is not None:
                return facts + self.uncut
        if not near and M.bottom <= 0 and kind == self.double and np.isfinite(M.S).all():
            return M.facts(NEGATIVE, 0.0, M.bottom, cond=1.0) + self.uncut
        root = self.by_poles(M, back, near, begun is not None)
        if root is None:
            return self.none
        served, error = self.finished(M, root, out, back)
        return M.facts(served, error, max(M.bottom, 0.0) if near else M.bottom) + self.uncut

    def taken(self, S: Array, kind: Any, begun: Reduced | None) -> Taken | None:
        """Reduce a matrix, or its Hermitian part, and learn its ends and shift; return None where nothing serves it."""
        relative, absolute, smallest, _ = self.numbers
        form, halves, ends, symmetric, exponent = self.reduced(S, kind) if begun is None else begun
        gap = 0.0
        if not symmetric:
            if kind == self.single:
                return None
            given, S = S, np.empty(S.shape, self.double)
            gap = self.compiled.symmetrized(given, S)
            if not gap < math.inf:
                return None
            _, exponent = self.tridiagonal(S, form, halves)
        units = 2.0 ** (exponent // 2), 2.0 ** (exponent - exponent // 2)
        if not 0.0 < (factor := root_of(exponent, self.s)) < math.inf:
            return None
        ends[:] = low, high = self.compiled.ends(form[1], form[2])
        shift = relative * high + absolute / units[0] / units[1]
        if smallest:
            if low < -high:
                return None
            shift = max(shift - smallest * low, 0.0)
        return Taken(S, form, halves, units, factor, gap, low, high, shift)

    def by_poles(self, M: Taken, back: Any, near: bool, kept: bool) -> Array | None:
        """Return the upper triangle of the root, over the reflectors unless they are `kept`; None if it is not served.

        A matrix `near` to a singular one is moved up by what rounding has left below 0.
        """
        (A, d, e, tau), n = M.form, len(M.S)
        lifted = max(LIFT * M.top - M.bottom, 0.0) if near else 0.0
        if not 0 < M.bottom + lifted <= M.top < math.inf:
            return None
        row = self.poles.singular if near else bisect_left(self.edges, M.cond)
        if row == len(self.edges) and self.noise > 0 and M.bottom > self.least * M.top:
            row -= 1  # right to less than that, where the poles of singular matrices give nearly 0
        if row == len(self.edges):
            return None
        if M.shift + lifted:
            d = d + (M.shift + lifted)
        if self.rtol is not None and not near and self.errs_by(d, e, M.bottom, M.top, A.dtype.type) > self.rtol:
            return None
        reflectors = A
        if back != A.dtype:
            reflectors = A = padded(n, back)
            with np.errstate(all="ignore"):  # the lower triangle is not set
                A[:n, :n] = M.form[0][:n, :n]
        elif kept:
            A = padded(n, back)
        some = slice(self.counts[row])
        b, w, direct = self.poles.b[row, some], self.poles.w[row, some], self.poles.direct
        F = self.compiled.poles(d, e, b, w, M.top, M.top**self.power, direct, self.s > 0)
        if self.by_tiles():
            self.compiled.root(reflectors, A, tau, F)
        else:
            if reflectors is not A:
                A[:n, :n] = reflectors[:n, :n]
            self.compiled.root_by_blas(self.blas[back], A, tau, F, self.width)
        if near:
            nothing = np.flatnonzero(M.S.diagonal() == 0)
            A[nothing], A[:, nothing] = 0, 0
        return A

    def finished(self, M: Taken, root: Array, out: Array, back: Any) -> tuple[float, float]:
        """Write a root to `out`, times what is left of a power above 1; return `served` and the residual."""
        S, shift, halves, factor = M.S, M.shift, M.halves, M.factor
        if self.more:
            served, error = self.raised(self, S, out, root[: len(S), : len(S)], shift, halves, factor)
            return float(served), float(error)
        self.compiled.written(root, out, factor)
        X = beside(S, out)
        if self.s.numerator < -1:
            by_solves = deferred("matroot.methods.tridiagonal_solves").residual
            error = by_solves(S, X, shift, halves, factor, self.probes, self.s)
        else:
            error = self.compiled.certificate(in_pairs(S), in_pairs(X), shift, halves, factor, self.pairs, self.order)
        return (IN_SINGLE if back == self.single else SERVED) if math.isfinite(error) else 0.0, error

    def errs_by(self, d: FloatArray, e: FloatArray, bottom: float, top: float, kind: Any) -> float:
        """Bound the forward error; return 0 if the certificate refuses the rtol for every method."""
        share, size = self.compiled.smallest_share(d, e, CLUSTER * bottom)
        bound = float(forward_error_bound(np.float64(top / bottom), self.s, UNIT[kind]))
        if kind == self.double and VOUCHED * bound > (self.rtol or 0.0):
            return 0.0
        return float(bound * max(LEAST[kind], moved(len(d), share, size / top)))
