"""A job as the kernels do it whole: its rule in numbers, and the bars of its certificate."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from matroot._regularization import Coefficients
from matroot._status import Status
from matroot.backends.arrays import HALVES, smallest_normal
from matroot.methods.eigen import Eigen
from matroot.methods.tridiagonal import Tridiagonal
from matroot.methods.tridiagonal_report import NONE, SERVED
from matroot.pipeline.call import Job
from matroot.pipeline.scaling import asymmetry_bar
from matroot.pipeline.status import doubtful, explained_residual, input_lost, tolerated_residual, vouched

Array = Any

#: Condition numbers from 2^OCTAVES on are never certain to be fine; the kernel serves none above 1e14.
OCTAVES = 60


@dataclass(frozen=True, eq=False)  # hashed by identity: equal calls share one
class Fused:
    """A job for matrices of order n that the kernel does whole, and what follows from its options.

    Attributes
    ----------
    allowed : array
        For the condition numbers from 2^(k-1) to 2^k, and inf for k = 0, the residual up to which a root is certain to
        be CONVERGED; -1 where none is. `judge` decides the others.
    even : array
        For the same condition numbers, the relative asymmetry of the input up to which this stays so.
    faint : float
        Beyond this end of the spectrum, entries of the root may leave the normal range.
    """

    job: Job
    n: int
    rule: Coefficients
    allowed: Array
    even: Array
    faint: float
    inverse: bool
    #: the share of the largest eigenvalue up to which a negative one counts as 0; 0 where powers of 0 are not served
    noise: float

    def sure(
        self,
        served: float,
        asymmetry: float,
        residual: float,
        lambda_min: float,
        lambda_max: float,
        ridge: float,
        cond: float,
    ) -> bool:
        """Return True if one matrix is certain to be CONVERGED, so that no array of length 1 need be asked."""
        inside = lambda_min <= self.faint if self.inverse else lambda_max + ridge >= self.faint
        if lambda_max < -lambda_min:  # `excess_of` is beyond 1
            return False
        octave = min(math.frexp(cond)[1], OCTAVES - 1)
        fine = residual <= self.allowed[octave] and asymmetry <= self.even[octave]
        return bool(served == SERVED and inside and fine)


def whole(job: Job, n: int) -> tuple[Job, Fused | None]:
    """Return the job as it will be done, and how the kernel does all of it; None if `attempt` is needed.

    `Tridiagonal` computes in double precision, whatever was asked for.
    """
    double = np.dtype(np.complex128 if job.dtype.kind == "c" else np.float64)
    if not isinstance(job.method, Tridiagonal):
        return job, None
    if job.dtype != double:
        job = replace(job, dtype=double, may_widen=False)
    s, rule = job.problem.rational, NONE if job.rule is None else job.rule.coefficients()
    half = job.origin.dtype_name in HALVES
    if rule.cuts and s.numerator < -1:  # certified by eigenvectors
        return replace(job, method=Eigen()), None
    least = max(n, 1) * smallest_normal(job.origin.dtype_name if half else job.out_dtype.name)
    with np.errstate(over="ignore"):
        faint = float(np.float64(least) ** (1 / float(s)))
    noise = replace(job.problem, out_eps=job.out_eps).noise(n, double) if s > 0 and rule == NONE else 0.0
    return job, Fused(job, n, rule, allowed_residuals(n, job), allowed_asymmetry(n, job), faint, s < 0, noise)


def allowed_residuals(n: int, job: Job) -> Array:
    """Return `Fused.allowed`, whose bounds are those of `judge` at the ends of each octave."""
    least, most = octaves()
    fine = vouched(most, n, job) & ~input_lost(most, job)
    explained = explained_residual(least, job.problem.s, n, job.eps + job.out_eps, job.problem.rtol or 0.0)
    explained = np.minimum(explained, tolerated_residual(job.problem.s, job.problem.rtol))
    allowed = np.where(fine, explained, -1.0)
    allowed[-1] = -1.0  # above 2^OCTAVES none is served
    return allowed


def allowed_asymmetry(n: int, job: Job) -> Array:
    """Return `Fused.even`: no more than rounding of sums of n, and 0 where `doubtful` finds that too much."""
    gap = min(2 * n * job.out_eps, asymmetry_bar(job.origin))
    status = doubtful(np.zeros(OCTAVES, np.int8), np.float64(gap), octaves()[1], job)
    return np.where(status == Status.CONVERGED, gap, 0.0)


def octaves() -> tuple[Array, Array]:
    """Return both ends of the intervals of condition numbers of `Fused.allowed`, by what `frexp` gives for them."""
    most = np.ldexp(1.0, np.arange(OCTAVES))
    least = most / 2
    least[0] = most[0] = np.inf
    return least, most
