"""One small real matrix by the kernel of lanes, where Python around the compiled loops is most of the time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from threading import local
from typing import Any

import numpy as np

from matroot._result import RootResult
from matroot.backends.arrays import Origin
from matroot.methods.conditioning import PROBES
from matroot.methods.tridiagonal import PRODUCTS, Tridiagonal, constants, kernel, room
from matroot.methods.tridiagonal_report import pole_level
from matroot.pipeline.kernel import Fused

Array = Any

#: Above this n the loops take so long that the general way costs little beside them.
LARGEST = 32

_kept = local()


@dataclass(frozen=True)
class Lone:
    """The arguments of the kernel that equal calls share, and the fields that their results share.

    Attributes
    ----------
    size : float
        That of the exponent.
    vectors : int
        Work space, in vectors of eight numbers.
    """

    fused: Fused
    arguments: tuple[Any, ...]
    vectors: int
    size: float
    facts: dict[str, Any]

    def solve(self, a: Array, origin: Origin) -> RootResult[Any] | None:
        """Solve one matrix (n, n); return None unless it is certain to be CONVERGED."""
        run, n, dtype = kernel(), len(a), self.fused.job.out_dtype
        if run is None:
            return None
        flags = a.flags
        ready = a.dtype == np.float64 and flags.c_contiguous and flags.aligned
        A = a[None] if ready else np.array(a, np.float64, order="C", ndmin=3)
        X, report = np.empty((1, n, n)), np.empty((1, 7))
        run(A, X, report, *self.arguments, work_space(self.vectors))
        facts = report[0]
        numbers = facts.tolist()
        if not self.fused.sure(*numbers):
            return None
        x = X[0] if dtype == np.float64 else X[0].astype(dtype)
        arrays = {
            "status": np.zeros((), np.int8),
            "residual": facts[2, ...],
            "cond": facts[6, ...],
            "bits_lost": np.array(np.log2(max(self.size * numbers[6], 1.0))),
            "n_iter": np.zeros((), np.int64),
            "lambda_max": facts[4, ...],
            "lambda_min": facts[3, ...],
            "ridge": facts[5, ...],
            "asymmetry": facts[1, ...],
        }
        if self.fused.rule.cuts:  # nothing, or the kernel would not have served it
            arrays["changed"] = np.zeros((), np.int64)
        if self.fused.rule.drops:
            arrays["rank"] = np.full((), n)
        if origin.library != "numpy" or origin.dtype != x.dtype:
            give = origin.give_back
            x, arrays = give(x), {name: give(value, as_input=False) for name, value in arrays.items()}
        result: RootResult[Any] = object.__new__(RootResult)  # a frozen dataclass sets fields one by one, in 5 us
        result.__dict__.update(self.facts, x=x, **arrays)
        return result


@lru_cache(maxsize=256)
def lone(fused: Fused) -> Lone | None:
    """Return how `fused` is done for one matrix; None if the general way is as good."""
    job, n = fused.job, fused.n
    method, s = job.method, job.problem.rational
    if not (1 <= n <= LARGEST and isinstance(method, Tridiagonal) and method.lanes is not False):
        return None
    if job.dtype.kind == "c":
        return None
    single = job.out_dtype == np.float32
    V, poles, order, vectors = constants(s.numerator, s.denominator, n, False, pole_level(single, job.problem.rtol))
    facts = {
        "companion": None,
        "n_products": PRODUCTS,
        "method": method,
        "compute_dtype": job.dtype.name,
        "certificate": "full" if n <= PROBES else "probes",
        "exponent": s,
        "rtol": job.problem.rtol,
        "changed": None,
        "rank": None,
    }
    arguments = (s.numerator, s.denominator, *fused.rule[:4], *poles, V, order, single)
    return Lone(fused, arguments, vectors, abs(float(s)), facts)


def work_space(vectors: int) -> Array:
    """Return this thread's work space; what is kept is no more than the largest that was asked for."""
    kept = getattr(_kept, "space", None)
    if kept is None or len(kept) < 8 * vectors:
        kept = _kept.space = room(vectors)
    return kept
