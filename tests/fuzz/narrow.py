"""Narrow dtypes: does CONVERGED vouch for two digits of the root of the matrix as it was before it was rounded?

A matrix is made in float64 and rounded to float16, bfloat16 or float32. Its power by ``method="auto"`` is compared with
that of the unrounded matrix, in 30 digits: rounding the input is an error of the answer, whatever the arithmetic is.
"""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import mpmath
import numpy as np
from table import EPS

from matroot import Status, gallery
from matroot._solve import solve_power

from .case import DECADES, numpy_dtype

DTYPES = ("float16", "bfloat16", "float32")
DIGITS = 30
#: Below two digits, counted to the nearest, as `solve` documents it.
UNDER_TWO_DIGITS = 10**-1.5
#: Errors that are counted.
SIZES = (1e-3, 1e-2, UNDER_TWO_DIGITS, 0.1)


def draw(seed: int, index: int) -> tuple[np.ndarray, np.ndarray, str, Fraction | float]:
    """Return the matrix in float64, rounded, the name of its dtype, and an exponent."""
    rng = np.random.default_rng([7, seed, index])
    dtype = str(rng.choice(DTYPES))
    n = int(rng.integers(1, 9))
    sign = int(rng.choice([-1, 1], p=[0.65, 0.35]))
    s: Fraction | float = sign * Fraction(1, int(rng.integers(1, 9)))
    if rng.random() < 0.2:
        s = sign * float(rng.uniform(0.02, 2)) if rng.random() < 0.5 else sign * Fraction(int(rng.integers(2, 6)), 3)
    A = make(rng, n, EPS[dtype])
    if rng.random() < 0.3:
        size = min(DECADES[dtype], 20) - 1
        A = A * 2.0 ** int(rng.uniform(-size, size))
    rounded = A.astype(numpy_dtype(dtype))
    return A, rounded, dtype, s


def make(rng: np.random.Generator, n: int, eps: float) -> np.ndarray:
    """Return a positive semidefinite matrix in float64, of any condition number that the dtype can nearly hold."""
    kind = rng.choice(["spectrum", "tail", "cluster", "few samples", "correlation", "laplacian", "kernel"])
    if kind == "few samples":
        G = rng.standard_normal((n, int(rng.integers(1, n + 2))))
        return np.asarray(G @ G.T)
    if kind == "correlation":
        r = 1 - 10 ** rng.uniform(1.5 * np.log10(eps), 0)
        return np.asarray(r ** abs(np.subtract.outer(np.arange(n), np.arange(n))))
    if kind == "laplacian":
        return np.asarray(n * np.eye(n) - np.ones((n, n)) + 10 ** rng.uniform(np.log10(eps) - 1, 0) * np.eye(n))
    if kind == "kernel":
        x = rng.uniform(0, 3, n)
        return np.asarray(np.exp(-(np.subtract.outer(x, x) ** 2)) + 10 ** rng.uniform(np.log10(eps) - 1, 0) * np.eye(n))
    cond = 10 ** rng.uniform(0, -1.3 * np.log10(eps)) if n > 1 else 1.0
    w = gallery.eigenvalues(n, cond, str(rng.choice(["geometric", "two_cluster", "power_law", "arithmetic"])))
    if kind == "tail":
        w = np.where(rng.random(n) < 0.5, rng.uniform(0.1, 1, n) * eps * 10 ** rng.uniform(-3, 4), 1.0)
    if kind == "cluster":
        w = 10 ** rng.uniform(np.log10(eps), 0, 2)[rng.integers(0, 2, n)] * (1 + 1e-3 * rng.random(n))
    Q = gallery.orthogonal(n, rng=rng)
    A = (Q * w) @ Q.T
    return np.asarray((A + A.T) / 2)


def power(A: np.ndarray, s: Fraction | float) -> np.ndarray | None:
    """Return A^s of the unrounded matrix; None if an eigenvalue is not positive and s is negative."""
    with mpmath.workdps(DIGITS):
        w, Q = mpmath.eigsy(mpmath.matrix(A.tolist()))
        w = [x if x > mpmath.mpf(10) ** -15 * max(w) else mpmath.mpf(0) for x in w]  # float64 has made the matrix
        if s < 0 and min(w) == 0:
            return None
        t = mpmath.mpf(s.numerator) / s.denominator if isinstance(s, Fraction) else mpmath.mpf(s)
        F = Q * mpmath.diag([x**t if x else mpmath.mpf(0) for x in w]) * Q.T
        return np.array(F.tolist(), dtype=float)


def error(index: int, seed: int) -> tuple[str, str, float, str]:
    """Return dtype, status and relative error in the 2-norm of one solve, and the case in words."""
    A, rounded, dtype, s = draw(seed, index)
    result = solve_power(rounded, s)
    exact = power(A, s)
    X = np.asarray(result.x).astype(float)
    if exact is None or not np.isfinite(X).all():
        off = np.inf
    else:
        off = float(np.linalg.norm(X - exact, 2) / np.linalg.norm(exact, 2))
    words = f"{dtype} n={len(A)} s={s} cond={float(result.cond):.1e} residual={float(result.residual):.1e} "
    return dtype, Status(int(result.status)).name, off, words + result.method.name


def table(counts: Counter[tuple[str, str]], beyond: Counter[tuple[str, float]]) -> str:
    """Return how many solves had which status, and how far off the CONVERGED were."""
    lines = []
    for dtype in DTYPES:
        of = {name: number for (d, name), number in counts.most_common() if d == dtype}
        off = ", ".join(f"{beyond[dtype, size]} beyond {size:.3g}" for size in SIZES)
        lines.append(f"  {dtype}: {', '.join(f'{number} {name}' for name, number in of.items())}; CONVERGED: {off}")
    return "\n".join(lines)


def search(seed: int, cases: int) -> int:
    """Solve cases 0, 1, ...; return 1 if a CONVERGED holds under two digits."""
    counts: Counter[tuple[str, str]] = Counter()
    beyond: Counter[tuple[str, float]] = Counter()
    for index in range(cases):
        dtype, status, off, words = error(index, seed)
        counts[dtype, status] += 1
        if status == "CONVERGED":
            beyond.update((dtype, size) for size in SIZES if off > size)
            if off > UNDER_TWO_DIGITS:
                print(f"under two digits | {seed}:{index} | error {off:.1e} | {words}", flush=True)
    print(f"\n{cases} solves\n{table(counts, beyond)}")
    return 1 if any(beyond[dtype, UNDER_TWO_DIGITS] for dtype in DTYPES) else 0
