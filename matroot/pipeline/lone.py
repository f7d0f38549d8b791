"""One matrix by a kernel of its own, without the arrays of a batch.

Python around the compiled loops is most of the time of a small matrix, and a tenth of that of one with n = 256.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from matroot._result import RootResult
from matroot.backends.arrays import HALVES, Origin
from matroot.backends.cpu.blas import one_blas_thread
from matroot.backends.cpu.kernels import compiled
from matroot.methods.conditioning import PROBES
from matroot.methods.tridiagonal import NO_FORMS, PRODUCTS, Tridiagonal, constants, kernel, work_space
from matroot.methods.tridiagonal_form import Reduced
from matroot.methods.tridiagonal_large import Solver
from matroot.methods.tridiagonal_report import (
    IN_SINGLE,
    SERVED,
    CutReport,
    Report,
    further_products,
    pole_level,
    zero_share,
)
from matroot.pipeline.call import Output
from matroot.pipeline.fused import Fused
from matroot.pipeline.kernel import finish, solve_semidefinite

Array = Any

#: Above this n the loops of lanes take so long that the general way costs little beside them.
LARGEST = 35


@dataclass(frozen=True)
class Lone:
    """The arguments of the kernel that equal calls share, and the fields that their results share."""

    fused: Fused
    arguments: tuple[Any, ...]
    #: work space, in vectors of eight numbers
    vectors: int
    #: that of the exponent
    size: float
    facts: dict[str, Any]

    def solve(self, a: Array, origin: Origin, batch: tuple[int, ...]) -> RootResult[Any] | None:
        """Solve one matrix (n, n), of a `batch` of ones; return None where there is no kernel."""
        run, n, dtype = kernel(), len(a), self.fused.job.out_dtype
        if run is None:
            return None
        flags = a.flags
        ready = a.dtype == np.float64 and flags.c_contiguous and flags.aligned
        A = a[None] if ready else np.array(a, np.float64, order="C", ndmin=3)
        X, report = np.empty((1, n, n)), np.empty((1, 7))
        run(A, X, report, *self.arguments, work_space(self.vectors), NO_FORMS)
        facts = report[0]
        numbers = facts.tolist()
        sure = self.fused.sure(*numbers)
        if not sure and self.fused.noise:
            solve_semidefinite(A, Report._make(report.T), self.fused, X)
            numbers = facts.tolist()
            sure = self.fused.sure(*numbers)
        x = X[0] if dtype == np.float64 else X[0].astype(dtype)
        if not sure:
            return judged(a, x, Report._make(report.T), self.fused, batch)
        return converged(self.fused, self.facts, self.size, x, facts, numbers[6], origin, batch)


@dataclass(frozen=True)
class LoneLarge:
    """The same for a large matrix."""

    fused: Fused
    solver: Solver
    size: float
    facts: dict[str, Any]

    def begin(self, a: Array) -> Reduced:
        """Do the first half of `solve`, without an rtol."""
        with one_blas_thread():
            return self.solver.reduced(self.solver.as_readable(a), self.solver.double)

    def solve(self, a: Array, origin: Origin, batch: tuple[int, ...], begun: Reduced | None = None) -> RootResult[Any]:
        """Solve one matrix (n, n), of a `batch` of ones; `begun` is what `begin` gave."""
        fused, job = self.fused, self.fused.job
        x = np.empty(a.shape, job.out_dtype)
        with one_blas_thread():
            numbers = self.solver(a, x, begun)
        facts = self.facts
        if numbers[0] == IN_SINGLE:
            numbers, facts = (SERVED, *numbers[1:]), {**facts, "compute_dtype": job.out_dtype.name}
        kind = CutReport if fused.rule.cuts else Report
        cut = fused.rule.cuts and numbers[len(Report._fields)]
        if not cut and fused.sure(*numbers[: len(Report._fields)]):
            return converged(fused, facts, self.size, x, np.array(numbers), numbers[6], origin, batch)
        return judged(a, x, kind(*np.array(numbers)[:, None]), fused, batch, np.dtype(facts["compute_dtype"]))


def judged(
    a: Array,
    x: Array,
    report: Report | CutReport,
    fused: Fused,
    batch: tuple[int, ...],
    dtype: np.dtype[Any] | None = None,
) -> RootResult[Any]:
    """Return the result of one matrix that may have failed."""
    out = Output.room(1, fused.n, fused.job)
    out.x, out.dtype = x[None], dtype or out.dtype
    finish(a[None], report, fused, out)
    return out.result(batch, fused.job)


def converged(
    fused: Fused,
    shared: dict[str, Any],
    size: float,
    x: Array,
    facts: Array,
    cond: float,
    origin: Origin,
    batch: tuple[int, ...],
) -> RootResult[Any]:
    """Return the result of one matrix that is CONVERGED; `facts` are the numbers of a `Report`."""
    arrays = {
        "status": np.zeros((), np.int8),
        "residual": facts[2, ...],
        "cond": facts[6, ...],
        "bits_lost": np.array(np.log2(max(size * cond, 1.0))),
        "n_iter": np.zeros((), np.int64),
        "lambda_max": facts[4, ...],
        "lambda_min": facts[3, ...],
        "ridge": facts[5, ...],
        "asymmetry": facts[1, ...],
    }
    if fused.rule.cuts:  # and nothing was
        arrays["changed"] = np.zeros((), np.int64)
    if fused.rule.drops:
        arrays["rank"] = np.full((), fused.n)
    if batch:
        x, arrays = x.reshape(*batch, *x.shape), {name: value.reshape(batch) for name, value in arrays.items()}
    if origin.library != "numpy" or origin.dtype != x.dtype:
        give = origin.give_back
        x, arrays = give(x), {name: give(value, as_input=False) for name, value in arrays.items()}
    result: RootResult[Any] = object.__new__(RootResult)  # a frozen dataclass sets fields one by one, in 5 us
    result.__dict__.update(shared, x=x, **arrays)
    return result


def alone(fused: Fused | None, values: Array, origin: Origin) -> Lone | LoneLarge | None:
    """Return how a stack is solved if it is one matrix; None if the general way is as good."""
    if fused is None or math.prod(values.shape[:-2]) != 1 or origin.library == "dlpack":  # whose plan is not kept
        return None
    return lone(fused)


@lru_cache(maxsize=256)
def lone(fused: Fused) -> Lone | LoneLarge | None:
    """Return how `fused` is done for one matrix; None if the general way is as good."""
    job, n = fused.job, fused.n
    method, s, rtol = job.method, job.problem.rational, job.problem.rtol
    if not (n >= 1 and isinstance(method, Tridiagonal)) or job.origin.dtype_name in HALVES:
        return None
    facts = {
        "companion": None,
        "n_products": PRODUCTS,
        "method": method,
        "compute_dtype": job.dtype.name,
        "certificate": "full" if n <= PROBES else "probes",
        "exponent": s,
        "rtol": rtol,
        "changed": None,
        "rank": None,
    }
    if not method.in_lanes(np.broadcast_to(np.empty((), job.dtype), (1, n, n))):
        if compiled("matroot.backends.cpu.large.kernel") is None:
            return None
        facts["n_products"] = PRODUCTS + further_products(s)
        return LoneLarge(
            fused, Solver(n, job.out_dtype, s, fused.rule, rtol, job.fixed, fused.noise), abs(float(s)), facts
        )
    if job.dtype.kind == "c" or n > LARGEST:
        return None
    single = job.out_dtype == np.float32
    V, poles, order, vectors = constants(s.numerator, s.denominator, n, False, pole_level(single, rtol))
    arguments = (
        s.numerator,
        s.denominator,
        *fused.rule[:4],
        zero_share(fused.noise, n, s, rtol),
        *poles,
        V,
        order,
        single,
    )
    return Lone(fused, arguments, vectors, abs(float(s)), facts)
