"""Derivatives in one direction, against differences over 2^-130."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
from table import EPS

from matroot import Floor, PseudoInverse, Ridge, Shift, TargetCondition

from ..eigen import PREC, Spectral
from ..exact import Exact
from . import draws
from .reference import FACTOR, Known, exponent_of, in_units, lost, matrix, odd, power, scaled
from .trial import Fault

#: Rounding errors of a derivative, relative to its size or to its steepest slope, times the condition number.
ROUNDING = 30 * 2.0**-53


def direction(rng: np.random.Generator, A: np.ndarray) -> np.ndarray:
    """A direction as large as A."""
    E = rng.standard_normal(A.shape) + (1j * rng.standard_normal(A.shape) if A.dtype.kind == "c" else 0)
    big = scaled(E, exponent_of(A)) if np.isfinite(draws.wide(A)).all() else E
    with np.errstate(all="ignore"):
        return big.astype(A.dtype)


def draw_rule(rng: np.random.Generator) -> Any:
    size = float(10 ** rng.uniform(-10, -1))
    rules = (Ridge(relative=size), Shift(relative=size), Floor(relative=size), PseudoInverse(rtol=size))
    return (*rules, TargetCondition(1 / size))[rng.integers(5)]


def judge_spectral(s: Any, dtype: str, member: tuple[np.ndarray, ...], out: dict[str, np.ndarray]) -> list[Fault]:
    """`spectral_derivative`; nothing is asked beside matrices without full rank."""
    A, E = member
    known, s = Known(A), Fraction(s)
    faults = judge_kind(A, E, out["x"])
    if faults or not known.small:
        return faults
    S, D = known.values, scaled(E, -known.exponent)
    kappa = S[0] / S[-1] if S[-1] > 0 else np.inf
    if s < 1 and kappa * ROUNDING > 0.01:
        return []
    L = known.derivative(D, lambda at: matrix(at, odd(s)))
    slope, size = (abs(float(s)) or 1.0) * np.linalg.norm(D), np.linalg.norm(L)
    steepest = slope * S[-1] ** float(s - 1) if s < 1 else slope
    bar = ROUNDING * (kappa if s < 1 else 1) * max(steepest, size)
    if 1 < s < 2:  # where x = 0, x^(s - 1) has an infinite slope
        bar += ROUNDING ** float(s - 1) * slope
    return judge_error(L, out["x"], bar, dtype, s, known, f"kappa {kappa:.1e}")


def judge_frechet(
    s: Any, rule: Any, dtype: str, member: tuple[np.ndarray, ...], out: dict[str, np.ndarray]
) -> list[Fault]:
    """`frechet_derivative`; nothing is asked beside singular matrices, nor where a rule has no derivative."""
    A, E = member
    known = Known(A, symmetric=True)
    faults = judge_kind(A, E, out["x"])
    if faults or not known.small:
        return faults
    w, D = known.values, scaled(E, -known.exponent)
    top, after = abs(w).max(), np.array(changed(rule, w.tolist()))
    used = after[after > 0] if isinstance(rule, PseudoInverse) else after
    if not used.size or not used.min() > 1e-12 * max(used.max(), top / 10) or no_derivative(rule, w):
        return []

    def of(at: Spectral) -> Exact:
        with mpmath.workprec(PREC):
            return at.matrix([power(x, s) for x in changed(rule, at.w)])

    L = known.derivative(D, of)
    kappa, s = max(used.max(), top) / used.min(), float(s)  # A is rounded before the rule
    steepest = max(used.min() ** (s - 1), used.max() ** (s - 1)) * abs(s) * np.linalg.norm(D)
    gap = 1.0
    if len(used) < len(after):  # between what is kept and what is not
        gap = used.min() / (used.min() - max(w[after <= 0].max(), 0))
        steepest = max(steepest, gap * max(used.min() ** s, used.max() ** s) / used.min() * np.linalg.norm(D))
    bar = ROUNDING * len(w) * kappa * gap * max(np.linalg.norm(L), steepest)
    if rule is not None and len(w) > 1:  # an eigenvector of an extreme eigenvalue has the error of its gap
        ends = max(min(w[-1] - w[-2], w[1] - w[0], top), 1e-300)
        bar += ROUNDING * kappa * top / ends * steepest
    return judge_error(L, out["x"], bar, dtype, Fraction(s), known, f"kappa {kappa:.1e}")


def changed(rule: Any, w: list[Any]) -> list[Any]:
    """The eigenvalues after a rule."""
    top, low = max(w), min(w)
    if rule is None:
        return w
    if isinstance(rule, Floor):
        return [max(x, rule.relative * top) for x in w]
    if isinstance(rule, PseudoInverse):
        return [x if x > rule.rtol * top else 0 * x for x in w]
    if isinstance(rule, Ridge):
        delta = rule.relative * top
    elif isinstance(rule, Shift):
        delta = max(0, rule.relative * max(top, -low) - low)
    else:
        delta = max(0, (top - rule.kappa * low) / (rule.kappa - 1))
    return [x + delta for x in w]


def no_derivative(rule: Any, w: np.ndarray) -> bool:
    """Whether a rule follows a multiple eigenvalue, or an eigenvalue is at its edge."""
    top = abs(w).max()
    if isinstance(rule, Shift) and abs(w[-1] + w[0]) < 1e-6 * top:  # either of the two may be the largest
        return True
    if rule is None or len(w) == 1:
        return False
    if not isinstance(rule, PseudoInverse) and min(w[-1] - w[-2], w[1] - w[0]) < 1e-6 * top:
        return True
    edge = rule.rtol if isinstance(rule, PseudoInverse) else rule.relative if isinstance(rule, Floor) else None
    return edge is not None and bool((abs(w - edge * w[-1]) < 1e-3 * edge * w[-1] + 1e-12 * top).any())


def judge_kind(A: np.ndarray, E: np.ndarray, X: np.ndarray) -> list[Fault]:
    if X.dtype.newbyteorder("=") != A.dtype or X.shape != A.shape:
        return [("kind", f"{X.dtype}{X.shape}")]
    finite = np.isfinite(draws.wide(A)).all() and np.isfinite(draws.wide(E)).all()
    return [] if finite else [("missed", "not finite")]


def judge_error(
    L: np.ndarray, X: np.ndarray, bar: float, dtype: str, s: Fraction, known: Known, text: str
) -> list[Fault]:
    if not np.isfinite(draws.wide(X)).all():
        return []  # it has left the range
    size, error = np.linalg.norm(L), np.linalg.norm(in_units(X, known.exponent, s) - L)
    bar = FACTOR * (bar + 3 * EPS[dtype] * size) + lost(dtype, known.exponent, s) * X.size
    return [] if error <= bar else [("wrong derivative", f"error {error:.1e} bar {bar:.1e} size {size:.1e} {text}")]
