"""Is an answer right? CONVERGED says: within rtol, or within what rounding of the input's dtype does to the root."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
from table import EPS

from matroot import Floor, PseudoInverse, Ridge, Shift, Status, TargetCondition

from .case import Case, Known, Matrix, numpy_dtype
from .exact import Exact, computed_goal, ratio, real_form

#: Verdicts are given where an answer is off by more than this, so that no bar has to be exact.
FACTOR = 10
#: CONVERGED vouches for two digits at least.
TWO_DIGITS = 1e-2
#: Above this n, vectors of eigenvalues below a cut are not refined: they, and A', have the precision of the arithmetic.
LARGE = 32

Fault = tuple[str, str]


def judge(case: Case, result: Any) -> list[Fault]:
    """Every fault of the result, as (class, details)."""
    n = case.a.shape[-1]
    faults: list[Fault] = []
    if result.x.shape != case.a.shape or result.x.dtype != case.a.dtype:
        faults.append(("kind", f"{result.x.dtype}{result.x.shape}"))
    wide = np.complex128 if case.dtype.startswith("complex") else np.float64
    X = np.asarray(result.x).astype(wide).reshape(-1, n, n)
    for i, matrix in enumerate(case.matrices):
        at = {f: np.ravel(getattr(result, f))[i] for f in ("status", "residual", "ridge", "lambda_max")}
        known = matrix.known(case.s, case.options.get("regularization"), float(at["ridge"]))
        eps = max(EPS[case.dtype], EPS[result.compute_dtype])
        if isinstance(case.options.get("regularization"), Floor | PseudoInverse) and len(X[i]) > LARGE:
            known = replace(known, residual=None if EPS[result.compute_dtype] > EPS["float64"] else known.residual)
        found = judge_one(case, matrix, known, X[i], at, eps, result.method.name)
        faults += [(kind, f"[{i}] {Status(int(at['status'])).name} {text}") for kind, text in found]
    return faults


def judge_one(
    case: Case, matrix: Matrix, known: Known, X: np.ndarray, at: dict[str, Any], eps: float, method: str
) -> list[Fault]:
    n, rtol = len(X), case.options.get("rtol")
    converged = at["status"] == Status.CONVERGED
    usable = at["status"] in (Status.CONVERGED, Status.ILL_CONDITIONED)
    if known.unclear or in_rounding(case, known, n, eps):
        return []
    if known.hopeless:
        text = f"{known.hopeless}: kappa {known.kappa:.1e} smallest/largest {known.share:.1e}"
        return [("missed: " + known.hopeless, text)] if converged else []
    faults: list[Fault] = []
    if usable and "gen" not in case.options.values() and not (X == X.conj().T).all():
        faults.append(("not Hermitian", f"{np.abs(X - X.conj().T).max():.1e}"))
    if converged:
        bar = rtol or rounding_bar(known, case.s, n, eps, method)
        error = distance(X, known.X)
        if not error <= FACTOR * bar:
            below = rtol is not None and rtol < n * eps
            kind = "wrong CONVERGED" + (": rtol below n eps" if below else " for rtol" if rtol else "")
            faults.append((kind, f"error {error:.1e} bar {bar:.1e} kappa {known.kappa:.1e} {method}"))
        faults += rule_kept(case, len(X), known, at, eps)
    elif easy(case, known, n, eps, method):
        bar = rounding_bar(known, case.s, n, eps, method)
        faults.append(("false alarm", f"kappa {known.kappa:.1e} bar {bar:.1e} share {known.share:.1e} {method}"))
    if usable and known.residual is not None and np.isfinite(X).all():
        true, told = known.residual(X), float(at["residual"])
        low, high = noise(matrix.a, X, case.s, known)
        low = high if case.options.get("regularization") is not None else low  # A + ridge I is rounded
        beyond = true > 1 and told > 1  # both say that no digit is right
        if not (beyond or true / FACTOR - low <= told <= FACTOR * true + high):
            faults.append(("residual", f"told {told:.1e} true {true:.1e} noise {low:.0e} {high:.0e} {method}"))
    return faults


def in_rounding(case: Case, known: Known, n: int, eps: float) -> bool:
    """Whether what is asked for lies within the rounding of the arithmetic that was asked for."""
    rule = case.options.get("regularization")
    if isinstance(rule, PseudoInverse):
        return eps > EPS[case.dtype] if rule.rtol is None else rule.rtol < 10 * n * eps
    if isinstance(rule, TargetCondition):
        return rule.kappa * n * eps > 0.1
    return known.hopeless == "indefinite" and case.s > 0 and known.share > -10 * n * eps


def rounding_bar(known: Known, s: Fraction | float, n: int, eps: float, method: str) -> float:
    """eps times the condition number of the map, as in `table.forward_bar`; two digits at most.

    eps is relative to A, of which a rule may leave little. For a root of a symmetric matrix, an eigenvalue below n eps
    is 0 or n eps. An iteration takes A^{a/p} as A times A^{a/p - 1}, which is conditioned like the inverse.
    """
    s = float(s)
    cond, eps = known.cond, eps * known.excess
    if 0 < s < 1 and known.bounded:
        cond = min(cond, (n * eps) ** s / eps)
    if s > 0 and method in ("coupled_newton", "higher_order", "minimax", "newton_db"):
        cond = max(cond, max(1.0, s) * known.kappa)
    return min(max(3.0, 0.6 * n**0.5) * eps * cond + 12 * n * eps, TWO_DIGITS)


def easy(case: Case, known: Known, n: int, eps: float, method: str) -> bool:
    """Whether CONVERGED can be asked for: a hundredth of what is allowed, and a result in the dtype's range."""
    allowed = min(case.options.get("rtol") or TWO_DIGITS, TWO_DIGITS)
    info = np.finfo(numpy_dtype(case.dtype)) if case.dtype != "bfloat16" else np.finfo(np.float32)
    size, exponent = known.X.norm(2) if isinstance(known.X, Exact) else (float(abs(known.X).max()), 0)
    size = np.ldexp(size, np.clip(exponent, -2000, 2000))
    in_range = 100 * float(info.tiny) / EPS[case.dtype] < size < float(info.max) / 100
    small = np.abs(case.a.astype(complex)).max() < 100 * float(info.tiny) / EPS[case.dtype]
    definite = not known.kappa * 100 * n * eps > 1  # nan for general matrices
    ruled = case.options.get("regularization") is not None
    if method == "schur_newton" and not definite:
        return False  # it takes 0 for rounding, and says so
    if method == "newton_db" and case.s < 0 and known.kappa**1.5 * eps > TWO_DIGITS / 100:
        return False  # its residual is that large, as it says, and vouches for nothing
    rounds = abs(known.share) <= n * EPS[case.dtype] / 10 and case.s > 0 and not ruled
    bar = rounding_bar(known, case.s, n, eps, method)
    return in_range and not small and (definite or rounds) and 100 * max(bar, n * eps) <= allowed


def distance(X: np.ndarray, known: Exact | np.ndarray) -> float:
    """||X - A^s||_2 / ||A^s||_2."""
    if not np.isfinite(X).all():
        return np.inf
    if isinstance(known, Exact):
        D = Exact.of(real_form(X)) - known
        return 0.0 if D.largest() == 0 else ratio(D.norm(2), known.norm(2))
    kind = complex if known.dtype.kind == "c" else float
    size = np.linalg.norm(known.astype(kind), 2)
    gap = np.linalg.norm((X - known).astype(kind), 2)
    return float(gap / size) if size or gap else 0.0


def noise(A: np.ndarray, X: np.ndarray, s: Fraction | float, known: Known) -> tuple[float, float]:
    """What evaluating the residual in float64 may take off and put on: a + b products, of factors that large.

    What one rounding error of the first product comes to can hide as much of a smaller residual. A power that is no
    product has the error of its condition number, or that of eigenvalues 0 that move by n eps, nearly all of them.
    """
    a, b = (abs(s.numerator), s.denominator) if isinstance(s, Fraction) else (abs(s), 1)
    n = len(X)
    unit = 8 * (a + b + n**0.5) * EPS["float64"]
    if computed_goal(s) is not None:
        cond = b * known.cond * known.excess
        if 0 < s < 1 and known.bounded:
            cond = min(cond, max(1.0, n / 8) * (n * EPS["float64"]) ** (float(s) - 1))
        return unit * max(1.0, cond), unit * max(1.0, cond)
    with np.errstate(all="ignore"):
        size = a * np.log(np.linalg.norm(A.astype(X.dtype), 2))
        growth = b * np.log(np.linalg.norm(X, 2)) + (size if s < 0 else -size)
    factors = float(np.exp(np.clip(np.nan_to_num(growth), 0, 700)))
    return max(unit, EPS["float64"] * factors), unit * factors


def rule_kept(case: Case, n: int, known: Known, at: dict[str, Any], eps: float) -> list[Fault]:
    """The ridge is the one that was asked for; lambda_max comes from below, within some 1e-2."""
    rule, told, top = case.options.get("regularization"), float(at["ridge"]), float(at["lambda_max"])
    if rule is None or isinstance(rule, Floor | PseudoInverse):
        return [("ridge", f"told {told:.1e}, none wanted")] if told else []
    if isinstance(rule, TargetCondition):
        right = top == 0 or (told >= 0 and known.kappa <= 1.1 * rule.kappa + 100 * EPS[case.dtype] * rule.kappa**2)
    elif isinstance(rule, Shift):
        wanted = max(rule.relative - known.share, 0.0) * known.norm
        right = abs(told - wanted) <= 2e-2 * wanted + 20 * n * eps * known.norm
    else:
        relative = rule.relative if isinstance(rule, Ridge) else rule
        right = abs(told - relative * top) <= 2e-2 * relative * abs(top)
    return [] if right else [("ridge", f"told {told:.3e} for {rule} lambda_max {top:.3e} kappa {known.kappa:.2e}")]
