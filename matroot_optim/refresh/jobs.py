"""Stage 2 as data: root jobs, their stacking into matroot calls, and the answers.

Matrices travel packed, n (n + 1) / 2 numbers each, both ways.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from matroot import Ridge, RootResult, one_blas_thread, solve
from matroot_optim.arrays import Array, cast, dtype_name, namespace, to_host
from matroot_optim.step.statistics import order_of, pack, unpack

#: Where a ridge of 0 begins when a root was bad.
EPS = float(np.finfo(np.float64).eps)

#: What is known about every root, beside the root itself, with its dtype.
FACTS = {
    "residual": np.float64,
    "cond": np.float64,
    "bits_lost": np.float64,
    "lambda_max": np.float64,
    "ridge": np.float64,
    "status": np.int8,
    "n_iter": np.int32,
}


@dataclass(frozen=True)
class RootJob:
    """Some roots of one stack that are due: A^exponent of every matrix, ready at step `due`.

    Attributes
    ----------
    key : str
        The stack and the dimension, "stack0/axis1".
    index : int array, (k,)
        Which blocks of the stack.
    matrix : array, (k, n (n + 1) / 2)
        Packed statistics.
    exponent : Fraction
        Negative.
    regularization : float
        Relative ridge.
    due : int
        The step at which the roots are installed.
    """

    key: str
    index: Any
    matrix: Array
    exponent: Fraction
    regularization: float
    due: int
    method: str = "auto"
    dtype: str = "float64"

    @property
    def p(self) -> int:
        """The degree of the root that is taken: the denominator of the exponent."""
        return self.exponent.denominator

    @property
    def alike(self) -> Any:
        """Jobs with the same value go into one call."""
        kind = (type(self.matrix).__module__, str(self.matrix.dtype), str(getattr(self.matrix, "device", "")))
        return (self.matrix.shape[-1], self.exponent, self.regularization, self.method, self.dtype, kind)


@dataclass(frozen=True)
class RootBatch:
    """Jobs of equal order and exponent as one stack: the argument of `compute`, and all it needs."""

    matrix: Array
    exponent: Fraction
    regularization: float
    method: str
    dtype: str
    members: tuple[Any, ...] = ()  # (key, bytes of the index) of every job: the same matrices, at another time
    due: int = 0  # the step that waits for the roots

    @property
    def n(self) -> int:
        """Order of the matrices."""
        return order_of(self.matrix.shape[-1])


@dataclass(frozen=True)
class RootAnswer:
    """Packed roots in the dtype of the statistics, the `FACTS` of each, and the seconds it took."""

    root: Array
    facts: dict[str, Any]
    seconds: float


@dataclass(frozen=True)
class Failure:
    """No answer came, and why."""

    reason: str


def escalated(ridge: float, level: int) -> float:
    """The relative ridge after `level` bad roots in a row: ten times more for each, from eps on, and 1 at most.

    A ridge of 1 leaves little of the statistics; more is never tried.

    Examples
    --------
    >>> from matroot_optim.refresh.jobs import escalated
    >>> [escalated(1e-6, level) for level in (0, 1, 100)]
    [1e-06, 1e-05, 1.0]
    """
    if level == 0:
        return ridge
    return min(max(ridge, EPS) * 10.0 ** min(level, 16), 1.0)


def stack_jobs(jobs: Sequence[RootJob]) -> list[tuple[RootBatch, list[RootJob]]]:
    """Batches of jobs that can go into one matroot call, in the order of their first job."""
    groups: dict[Any, list[RootJob]] = {}
    for job in jobs:
        groups.setdefault(job.alike, []).append(job)
    batches = []
    for group in groups.values():
        first = group[0]
        matrices = [job.matrix for job in group]
        matrix = matrices[0] if len(group) == 1 else namespace(first.matrix).concat(matrices, axis=0)
        members = tuple((job.key, np.asarray(job.index).tobytes()) for job in group)
        batch = RootBatch(matrix, first.exponent, first.regularization, first.method, first.dtype, members, first.due)
        batches.append((batch, group))
    return batches


def compute(batch: RootBatch) -> RootAnswer:
    """The roots of a batch: one call of `matroot.solve`."""
    rule = Ridge(relative=batch.regularization) if batch.regularization else None
    p, method, dtype = batch.exponent.denominator, batch.method, batch.dtype
    return answered(batch, lambda A: solve(A, p, method=method, regularization=rule, compute_dtype=dtype))


def answered(batch: RootBatch, root: Callable[[Array], RootResult[Any]]) -> RootAnswer:
    """The answer to a batch, with a function that gives A^{-1/p}, p the denominator of the exponent."""
    begin = time.perf_counter()
    own = dtype_name(batch.matrix)
    with one_blas_thread():  # the products below, too: the bits are the same on every engine
        result = root(cast(unpack(batch.matrix), batch.dtype))
        X = result.x
        for _ in range(-batch.exponent.numerator - 1):
            X = result.x @ X
    with np.errstate(over="ignore"):
        packed = cast(pack(X), own)
    facts = {name: np.asarray(to_host(getattr(result, name))).astype(kind) for name, kind in FACTS.items()}
    return RootAnswer(packed, facts, time.perf_counter() - begin)


def stale_error(
    root: Array, packed: Array, exponent: Fraction, ridge: Any, *, scale_free: bool, probes: int = 8
) -> Any:
    """How wrong old roots X are for new statistics A: ``||X^b A'^a - c I||_F / sqrt(n)``, estimated.

    By `probes` fixed vectors of +-1, in O(n^2): the square of the estimate is unbiased. A' = A + ridge I with the
    ridge of the old root; exponent = -a/b.

    Parameters
    ----------
    root : array (k, n, n)
    packed : array (k, n (n + 1) / 2)
    ridge : float array (k,)
        Absolute.
    scale_free : bool
        c is the best factor instead of 1: under a graft a multiple of the root is as good as the root.

    Returns
    -------
    float64 array (k,)
    """
    X, A = np.asarray(to_host(root), np.float64), unpack(np.asarray(to_host(packed), np.float64))
    n = X.shape[-1]
    V = np.random.default_rng([n, probes]).choice([-1.0, 1.0], size=(n, probes))
    Y = np.broadcast_to(V, (len(X), n, probes))
    with np.errstate(all="ignore"):
        for _ in range(-exponent.numerator):
            Y = A @ Y + ridge[:, None, None] * Y
        for _ in range(exponent.denominator):
            Y = X @ Y
        if scale_free:
            Y = Y * (((Y * V).sum((-1, -2)) / (Y * Y).sum((-1, -2)))[:, None, None])
        error = np.sqrt(((Y - V) ** 2).sum((-1, -2)) / (n * probes))
    return np.where(np.isfinite(error), error, np.inf)
