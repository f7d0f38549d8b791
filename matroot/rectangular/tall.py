"""Polar factors of tall real matrices on the CPU by compiled tiles, with little Python between them.

What is not certain to be CONVERGED is left to the general way, so that no array of length 1 need be asked here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

from matroot._bars import zero_cuts
from matroot._solve import planned
from matroot.backends.arrays import Origin, take, unit_roundoff
from matroot.backends.cpu.blas import blas_threads
from matroot.backends.cpu.cpu import in_threads
from matroot.backends.cpu.kernels import compiled, in_use
from matroot.backends.cpu.products import LEAST, WIDE
from matroot.backends.linalg import add_to_diagonal
from matroot.backends.profile import Limits, limits
from matroot.methods.conditioning import PROBES, random_columns
from matroot.methods.tridiagonal_form import readable
from matroot.methods.tridiagonal_report import lanes_are_faster
from matroot.pipeline.lone import LoneLarge, lone
from matroot.rectangular import certificate
from matroot.rectangular.powers import MARGIN, ROUNDING, largest_cond
from matroot.rectangular.result import PolarResult, SpectralResult

Array = Any

#: Sizes up to 2^MODERATE and from its inverse on need no scaling.
MODERATE = 2.0**30


#: What came of a matrix, and no numbers: nothing certain, or that it is one for an SVD. FINE are factors.
FINE, UNCERTAIN, REFUSED = 0.0, (1.0, 0.0, 0.0, 0.0), (2.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Tall:
    """The facts that the factors of equal shapes and precisions share."""

    root: LoneLarge
    kernel: Any
    #: vectors of the certificate
    V: Array
    unit: float
    #: below these shares, of ||A||_F and of sigma_max, singular values count as 0
    absolute: float
    relative: float
    #: the error that rounding explains
    explained: float

    def __call__(self, a: Array, u: Array, h: Array) -> tuple[float, float, float, float]:
        """Fill in U, and H unless it is empty; return what came of it, the errors of both, and cond."""
        n = a.shape[1]
        G, M = np.empty((2, n, n))
        size = self.kernel.gram(a, G) ** 0.5
        if not 1 / MODERATE <= size <= MODERATE:
            return UNCERTAIN
        numbers = self.root.solver(G, M)
        if not self.root.fused.sure(*numbers):
            return UNCERTAIN
        cond, largest = math.sqrt(numbers[6]), math.sqrt(numbers[4])
        known = cond**2 * n * ROUNDING < 1
        known &= largest > MARGIN * cond * max(self.absolute * size, self.relative * largest)
        if not known or MARGIN * cond > largest_cond(Fraction(0), self.unit):
            return REFUSED
        X, N = G[:0], M
        if cond**2 * ROUNDING > self.unit / 4:
            wide = a.astype(np.float64, copy=False)
            X, N = np.empty_like(wide), np.empty_like(G)
            self.kernel.factors(wide, G[:0], M, G, M, self.V, X, G[:0])
            self.kernel.gram(X, N)
            N *= -0.5
            add_to_diagonal(N, 0.5)
        errors = self.kernel.factors(a, X, N, G, M, self.V, u, h)
        return (FINE, *errors, cond) if max(errors) <= self.explained else UNCERTAIN


@lru_cache(maxsize=64)
def tall(m: int, n: int, unit: float, rtol: float | None, tuned: Limits) -> Tall | None:
    """Return how factors of these matrices are computed; None if the general way is as good."""
    _, fused = planned(np.broadcast_to(0.0, (n, n)), Origin("numpy", np.dtype(np.float64), None), Fraction(-1, 2))
    root, kernel = None if fused is None else lone(fused), compiled("matroot.backends.cpu.large.polar")
    if not isinstance(root, LoneLarge) or kernel is None:
        return None
    cuts = zero_cuts(np.float64(1), m, n, unit) if rtol is None else (0.0, rtol)
    explained = certificate.explained(n, unit, Fraction(0), 1.0)
    return Tall(root, kernel, random_columns(n, PROBES), unit, float(cuts[0]), float(cuts[1]), float(explained))


def serving(values: Array, origin: Origin, rtol: float | None, method: str, wide: bool) -> Tall | None:
    """Return how a stack, or that of its transposes, is computed, or None if the general way is as good."""
    if values.ndim < 2 or origin.library in ("cupy", "dlpack") or values.dtype not in (np.float32, np.float64):
        return None
    *batch, m, n = values.shape
    if wide:
        m, n = n, m
    unit, B = unit_roundoff(origin.dtype_name), math.prod(batch)
    products = method == "products" or (method == "auto" and (unit > ROUNDING or m >= 2 * n))
    fits = m >= n >= LEAST and n % WIDE == 0 and values.dtype.name == origin.dtype_name and B > 0
    if not products or not fits or lanes_are_faster(B, n) or blas_threads() > 1 or not in_use():
        return None
    return tall(m, n, unit, rtol, limits())


def factors(kind: Any, x: str, a: Array, rtol: float | None, method: str, general: Callable[..., Any]) -> Any:
    """Return the result of `general`, computed by tiles as far as these serve; `x` is the name of U in it."""
    values, origin = take(a)
    wide = kind is SpectralResult and values.ndim > 1 and values.shape[-2] < values.shape[-1]
    way = serving(values, origin, rtol, method, wide)
    if way is None:
        return general(a, rtol=rtol, method=method)
    values = values.swapaxes(-1, -2) if wide else values
    *batch, m, n = values.shape
    stack = values.reshape(-1, m, n)
    B = len(stack)
    u, h, numbers = np.empty_like(stack, order="C"), np.empty((B, n, n), stack.dtype), np.empty((4, B))
    h = h if kind is PolarResult else h[:, :0]

    def work(part: slice) -> None:
        one = stack[part.start]
        one = one if readable(one) else np.array(one, order="C")
        numbers[:, part.start] = way(one, u[part.start], h[part.start])

    in_threads(work, [slice(i, i + 1) for i in range(B)])  # the tiles call no BLAS
    outcome, gap, error, cond = numbers
    found = {x: u, "status": np.zeros(B, np.int8), "rank": np.full(B, n), "cond": cond}
    if kind is PolarResult:
        found |= {"h": h, "orthogonality": gap, "residual": error}
    else:
        found |= {"residual": np.maximum(gap, error)}
    names, rest = {"products"}, np.flatnonzero(outcome)
    if len(rest):
        left = general(stack[rest], rtol=rtol, method=_method_of(outcome[rest], method))
        for name in found:
            found[name][rest] = getattr(left, name)
        names = {*left.method.split(", "), *(names if len(rest) < B else ())}
    if wide:
        found[x] = np.ascontiguousarray(u.swapaxes(-1, -2))
    given = {
        name: origin.give_back(v.reshape((*batch, *v.shape[1:])), as_input=v.ndim > 1) for name, v in found.items()
    }
    more = {} if kind is PolarResult else {"exponent": Fraction(0)}
    return kind(method=", ".join(sorted(names)), certificate=certificate.kind(n), **given, **more)


def _method_of(outcomes: Array, method: str) -> str:
    """Return the method for what is left: "auto" would try products again before it takes an SVD."""
    return "svd" if method == "auto" and (outcomes == REFUSED[0]).all() else method
