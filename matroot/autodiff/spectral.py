"""Derivatives of a power of Hermitian matrices in the eigenbasis, with those of the regularization.

X = h(A, theta): h is x^s of the changed eigenvalues, and theta the size of the change, the shift of a diagonal rule or
the floor. theta depends on the extreme eigenvalues, hence on A. Writing h' for the derivative in A and theta' for that
of theta (Daleckii-Krein; Higham 2008, thm. 3.11),

    L(E) = Q (Gamma o Q^H E Q) Q^H + h_theta theta'(E)
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from matroot._regularization import Floor, PseudoInverse, Regularization, Ridge, Shift, TargetCondition
from matroot.autodiff.divided import (
    first_differences,
    first_differences_of_root,
    second_sums,
)
from matroot.backends.base import Backend
from matroot.backends.linalg import hermitian_part

Array = Any


class Spectral:
    """Derivatives at a stack of Hermitian matrices.

    Parameters
    ----------
    A : array (B, n, n)
        Finite; overwritten.
    s : Fraction or float
    rule : Regularization or None
    scale : array (B,)
        Divisors of the stack; absolute quantities in the rule are in the original units.
    ridge : array (B,) or None
        The shift that a solve has added; where it is negative, and without it, that of the rule.
    rounding : float
        Up to this times lambda_max, negative eigenvalues count as 0 for s > 0.
    backend : Backend

    Attributes
    ----------
    failed : array (B,) of bool
        There is no such power, or no derivative; what is computed for these matrices is meaningless.
    """

    def __init__(
        self,
        A: Array,
        s: Fraction | float,
        rule: Regularization | None,
        scale: Array,
        ridge: Array | None,
        rounding: float,
        backend: Backend,
    ) -> None:
        self.s, self.rule, self.backend, self.xp = s, rule, backend, backend.xp
        xp, power = self.xp, float(s)
        with np.errstate(all="ignore"):
            w, self.Q = backend.eigh(A)
            self.Qh = self.Q.conj().swapaxes(-1, -2)
            theta, self.slope = moves(w, rule, scale, ridge, xp)
            if isinstance(rule, Floor | PseudoInverse):
                kept, _ = rule.spectrum(w, scale)
                self.smooth = kept == w if isinstance(rule, Floor) else kept > 0
                # The differences of A' are those of A where A' = A + theta I.
                self.w, self.changed = w, kept
            else:
                self.w = self.changed = w + theta[:, None]
                self.smooth = xp.ones(w.shape, bool)
            if power > 0:
                top = self.changed[:, -1:]
                self.changed = xp.where((self.changed < 0) & (self.changed >= -rounding * top), 0, self.changed)
                self.w = xp.where(self.smooth, self.changed, self.w)
            dropped = ~self.smooth & (self.changed == 0)
            positive = self.changed > 0
            allowed = positive | dropped | (self.changed == 0) if power >= 1 else positive | dropped
            self.failed = ~(allowed.all(-1) & xp.isfinite(w).all(-1))
            self.value = xp.where(dropped, 0, xp.where(allowed & ~dropped, self.changed, 1) ** power)
            self.first = self._differences(s, self.value)

    def _differences(self, s: Fraction | float, value: Array) -> Array:
        """Compute first differences of the function that is x^s of smooth eigenvalues, and constant of others."""
        xp = self.xp
        safe = xp.where(self.changed > 0, self.changed, 1.0 * ~self.smooth)
        G = first_differences_of_root(safe, s, xp)
        if G is None:
            G = first_differences(safe, float(s), xp)
        if self.smooth.all():
            return G
        both = self.smooth[:, :, None] & self.smooth[:, None, :]
        if isinstance(self.rule, Floor):  # f[a, c] (a - c) / (a - b), for the floor c
            return xp.where(both, G, G * quotients(self.changed, self.w, xp))
        return xp.where(both, G, quotients(value, self.w, xp))

    def into(self, E: Array) -> Array:
        """Compute Q^H E Q of the Hermitian part of E."""
        return self.backend.matmul(self.Qh, self.backend.matmul(hermitian_part(E), self.Q))

    def out(self, M: Array) -> Array:
        """Compute Q M Q^H, Hermitian to the last bit."""
        return hermitian_part(self.backend.matmul(self.Q, self.backend.matmul(M, self.Qh)))

    def derivative(self, E: Array) -> Array:
        """Compute L(E)."""
        return self.out(self._derivative(self.into(E)))

    def adjoint(self, G: Array) -> Array:
        """Compute L*(G), of which ``<L*(G), E> = <G, L(E)>``."""
        G = self.into(G)
        M = self.first * G
        if self.slope is not None:
            add_diagonal(M, self.slope * inner(G, self.by_theta(0))[:, None])
        return self.out(M)

    def _derivative(self, E: Array) -> Array:
        M = self.first * E
        if self.slope is not None:
            add_diagonal(M, self.by_theta(0) * inner(E, self.slope)[:, None])
        return M

    def second(self, E: Array, H: Array) -> Array:
        """Compute the second derivative in the directions E and H."""
        E, H = self.into(E), self.into(H)
        M = self._second(E, H)
        if self.slope is not None:
            e, h = inner(E, self.slope), inner(H, self.slope)
            mixed = self.mixed()
            M += mixed * (E * h[:, None, None] + H * e[:, None, None])
            turn = quotients(self.slope, self.w, self.xp)
            add_diagonal(M, self.by_theta(1) * (e * h)[:, None])
            add_diagonal(M, self.by_theta(0) * (E.conj() * turn * H).real.sum((-1, -2))[:, None])
        return self.out(M)

    def second_adjoint(self, E: Array, G: Array) -> Array:
        """Compute S(E, G), of which ``<S(E, G), H> = <G, second(E, H)>``."""
        E, G = self.into(E), self.into(G)
        M = self._second(E, G)
        if self.slope is not None:
            e, mixed = inner(E, self.slope), self.mixed()
            M += mixed * G * e[:, None, None]
            bend = (G.conj() * mixed * E).real.sum((-1, -2)) + e * inner(G, self.by_theta(1))
            add_diagonal(M, self.slope * bend[:, None])
            turn = quotients(self.slope, self.w, self.xp)
            M += inner(G, self.by_theta(0))[:, None, None] * turn * E
        return self.out(M)

    def by_theta(self, order: int) -> Array:
        """Compute the derivative of h in theta, or the second one, at every eigenvalue: (B, n)."""
        xp, s = self.xp, float(self.s)
        factor = s * (s - 1) if order else s
        safe = xp.where(self.changed > 0, self.changed, 1)
        value = factor * safe ** (s - 1 - order)
        moved = self.smooth if not isinstance(self.rule, Floor) else ~self.smooth
        return xp.where(moved, value, 0)

    def mixed(self) -> Array:
        """Compute first differences of the derivative of h in theta."""
        if isinstance(self.rule, Floor):
            both = self.smooth[:, :, None] == self.smooth[:, None, :]
            return self.xp.where(both, 0, quotients(self.by_theta(0), self.w, self.xp))
        s = float(self.s)
        return s * self._differences(s - 1, self.changed)

    def _second(self, E: Array, H: Array) -> Array:
        """Sum h[i, k, j] (E_ik H_kj + H_ik E_kj) over k."""
        if 1 < self.s < 2:  # the second derivative of x^s is infinite at 0
            self.failed = self.failed | (self.smooth & (self.changed == 0)).any(-1)
        return second_sums(self.w, self.s, self.first, self.smooth, E, H, self.failed, self.xp)


def moves(w: Array, rule: Regularization | None, scale: Array, ridge: Array | None, xp: Any) -> tuple[Array, Any]:
    """Return the shift theta (B,) and its derivative in every eigenvalue (B, n), None where it is constant.

    The derivative of a multiple extreme eigenvalue is taken as the mean over its eigenvectors. For `Floor` theta is
    the floor, which shifts nothing, and 0 is returned for it.
    """
    delta = xp.zeros_like(w[:, 0])
    if rule is None or isinstance(rule, PseudoInverse):
        return delta, None
    top, low = extreme(w, w[:, -1:], xp), extreme(w, w[:, :1], xp)
    if isinstance(rule, Floor):
        return delta, rule.relative * top
    by_rule = rule.shift(w[:, -1], w[:, 0], scale)
    delta = by_rule if ridge is None else xp.where(ridge < 0, by_rule, ridge / scale)
    if isinstance(rule, Ridge):
        if not rule.relative:
            return delta, None
        raised = 10.0 ** xp.round(xp.log10(xp.where(by_rule > 0, delta / xp.where(by_rule > 0, by_rule, 1), 1)))
        return delta, rule.relative * xp.where(xp.isfinite(raised), raised, 1)[:, None] * top
    active = (by_rule > 0)[:, None]
    if isinstance(rule, TargetCondition):
        return delta, xp.where(active, (top - rule.kappa * low) / (rule.kappa - 1), 0)
    if isinstance(rule, Shift):
        largest = xp.where((w[:, -1] >= -w[:, 0])[:, None], top, -low)
        return delta, xp.where(active, rule.relative * largest - low, 0)
    raise TypeError(f"the derivative under {rule!r} is not known")


def extreme(w: Array, end: Array, xp: Any) -> Array:
    """Return equal weights of sum 1 for the eigenvalues that agree with `end` up to rounding."""
    n = w.shape[-1]
    size = xp.maximum(xp.abs(w[:, -1:]), xp.abs(w[:, :1]))
    equal = (xp.abs(w - end) <= 4 * n * np.finfo(w.dtype).eps * size).astype(w.dtype)
    return equal / equal.sum(-1, keepdims=True)


def quotients(values: Array, w: Array, xp: Any) -> Array:
    """Compute (values_i - values_j) / (w_i - w_j), 0 where the values are equal."""
    above = values[..., :, None] - values[..., None, :]
    gap = w[..., :, None] - w[..., None, :]
    with np.errstate(all="ignore"):
        return xp.where(above == 0, 0, above / xp.where(gap == 0, 1, gap))


def inner(E: Array, diagonal: Array) -> Array:
    """Compute <E, diag> of Hermitian matrices E (B, n, n)."""
    n = E.shape[-1]
    return (E.reshape(len(E), n * n)[:, :: n + 1].real * diagonal).sum(-1)


def add_diagonal(M: Array, diagonal: Array) -> None:
    """Add a diagonal (B, n) to C-ordered M (B, n, n) in place."""
    n = M.shape[-1]
    M.reshape(len(M), n * n)[:, :: n + 1] += diagonal
