"""Draws a case from a seed and an index: sizes, dtype, exponent, method, rule, tolerance, batch."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from matroot import Floor, PseudoInverse, Ridge, Shift, TargetCondition

from . import closed, general, symmetric
from .case import Case, Matrix

DTYPES = ("float64", "float32", "complex128", "complex64", "float16", "bfloat16")
METHODS = ("auto", "eigen", "tridiagonal", "coupled_newton", "higher_order", "minimax", "newton_db", "schur_newton")


def draw(seed: int, index: int) -> Case:
    """The case of this seed and index, whatever was drawn before."""
    rng = np.random.default_rng([seed, index])
    family = rng.choice(["symmetric", "general", "closed"], p=[0.76, 0.2, 0.04])
    s = exponent(rng)
    batch = ((), (1,), (2,), (3,), (2, 2))[rng.choice(5, p=[0.7, 0.05, 0.1, 0.1, 0.05])]
    rtol = float(10 ** -rng.uniform(1, 12)) if rng.random() < 0.3 else None
    if family == "general":
        dtype = DTYPES[rng.choice(4)]
        return Case([general.draw(rng, dtype)], (), dtype, s, {"assume_a": "gen", "rtol": rtol})
    if family == "closed":
        dtype = DTYPES[rng.choice(2)]
        return Case([closed.draw(rng, dtype)], (), dtype, s, options(rng, s, dtype, rtol, None))
    dtype = DTYPES[rng.choice(6, p=[0.4, 0.25, 0.1, 0.1, 0.07, 0.08])]
    n = int(rng.integers(1, 4 if dtype.startswith("complex") else 7))
    some: list[Matrix] = [symmetric.draw(rng, n, dtype) for _ in range(int(np.prod(batch)))]
    return Case(some, batch, dtype, s, options(rng, s, dtype, rtol, rule(rng)))


def exponent(rng: np.random.Generator) -> Fraction | float:
    sign = int(rng.choice([-1, 1], p=[0.65, 0.35]))
    kind = rng.choice(["root", "large", "ratio", "real", "whole"], p=[0.62, 0.08, 0.14, 0.1, 0.06])
    if kind == "real":
        return sign * float(rng.choice([2**-0.5, np.pi / 4, np.e / 2, 0.123456789, float(rng.uniform(0.01, 2))]))
    if kind == "ratio":
        return sign * Fraction(int(rng.integers(2, 6)), int(rng.integers(2, 9)))
    if kind == "whole":
        return Fraction(sign * int(rng.integers(1, 4)))
    return sign * Fraction(1, int(rng.integers(1, 9) if kind == "root" else rng.choice([12, 16, 20, 32, 52, 100, 365])))


def rule(rng: np.random.Generator) -> Any:
    if rng.random() < 0.65:
        return None
    size = float(10 ** rng.uniform(-12, -1))
    return (size, *rules(size))[rng.integers(7)]


def rules(size: float) -> tuple[Any, ...]:
    """Every regularization, at one relative size."""
    return (
        Ridge(relative=size),
        Shift(relative=size),
        Floor(relative=size),
        PseudoInverse(),
        PseudoInverse(rtol=size),
        TargetCondition(1 / size),
    )


def options(
    rng: np.random.Generator, s: Fraction | float, dtype: str, rtol: float | None, chosen: Any
) -> dict[str, Any]:
    single = "float32" if rng.random() < 0.15 else None
    served = [m for m in METHODS if serves(m, s, chosen, single)]
    method = str(rng.choice(served, p=weights(served)))
    return {"method": method, "regularization": chosen, "rtol": rtol, "compute_dtype": single}


def weights(served: list[str]) -> np.ndarray:
    w = np.array([3.0 if m == "auto" else 1.0 for m in served])
    return w / w.sum()


def serves(method: str, s: Fraction | float, chosen: Any, single: str | None) -> bool:
    """What the documentation says that a method does."""
    if method in ("auto", "eigen"):
        return True
    if isinstance(chosen, Floor | PseudoInverse) and method != "tridiagonal":
        return False
    if method == "schur_newton":
        return True
    if not isinstance(s, Fraction):
        return False
    if method == "newton_db":
        return abs(s.numerator) == 1 and s.denominator in (2, 4, 8, 16, 32)
    return method != "tridiagonal" or (-1 <= s <= 16 and single is None)
