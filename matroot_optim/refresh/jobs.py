"""Stage 2 as data: root jobs, their stacking into matroot calls, and the answers.

Statistics and roots are sent packed, n (n + 1) / 2 numbers each.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np

from matroot import RootResult, one_blas_thread, solve_in_two
from matroot_optim.arrays import Array, cast, dtype_name, namespace, to_host
from matroot_optim.refresh.bases import new_bases
from matroot_optim.rules import Rule
from matroot_optim.step.statistics import order_of, pack, packed_size, unpack

#: The facts of every root, with their dtypes.
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
    """Due roots of one stack: A^exponent of every matrix, ready at step `due`.

    Attributes
    ----------
    key : str
        The stack and the dimension, "stack0/axis1".
    index : int array, (k,)
        Numbers of the blocks in the stack.
    matrix : array, (k, n (n + 1) / 2)
        Packed statistics.
    exponent : Fraction
        Negative.
    regularization : float or rule
        As in `matroot.solve`; a number is a relative ridge.
    due : int
        The step at which the roots are installed.
    task : {"root", "eigh", "qr"}
        A root; the eigenvectors; or the old basis, refined. For "qr" the basis (n^2 numbers) follows the statistic.
    """

    key: str
    index: Any
    matrix: Array
    exponent: Fraction
    regularization: Rule
    due: int
    method: Any = "auto"  # a name, or a method object of matroot, which leaves nothing to the batch
    dtype: str = "float64"
    task: str = "root"

    @property
    def p(self) -> int:
        """Degree of the root, the denominator of the exponent."""
        return self.exponent.denominator

    @property
    def alike(self) -> Any:
        """Key of the job; jobs with equal keys go into one call."""
        kind = (type(self.matrix), self.matrix.dtype, str(getattr(self.matrix, "device", "")))
        how = (self.exponent, self.regularization, self.method, self.dtype, self.task)
        return (self.matrix.shape[-1], *how, self.due, kind)


@dataclass(frozen=True)
class RootBatch:
    """Jobs of equal order and exponent as one stack: the complete argument of `compute`."""

    matrix: Array
    exponent: Fraction
    regularization: Rule
    method: Any  # a name, or a method object of matroot
    dtype: str
    members: tuple[Any, ...] = ()  # (key, bytes of the index) of every job: identifies the matrices over time
    due: int = 0  # the step that waits for the roots
    task: str = "root"

    @property
    def n(self) -> int:
        """Order of the matrices."""
        size = self.matrix.shape[-1]
        return (math.isqrt(24 * size + 1) - 1) // 6 if self.task == "qr" else order_of(size)

    @property
    def answer_shape(self) -> tuple[int, int]:
        """Shape of the answer: packed roots, or bases of n^2 numbers."""
        rows, size = self.matrix.shape
        return rows, size if self.task == "root" else self.n**2


@dataclass(frozen=True)
class RootAnswer:
    """Packed roots in the dtype of the statistics, the `FACTS` of each root, and the seconds of the computation.

    For the tasks "eigh" and "qr" `root` holds bases, n^2 numbers each.
    """

    root: Array
    facts: dict[str, Any]
    seconds: float


@dataclass(frozen=True)
class Failure:
    """The reason for a missing answer."""

    reason: str


def stack_jobs(jobs: Sequence[RootJob]) -> list[tuple[RootBatch, list[RootJob]]]:
    """Join jobs that can go into one matroot call into batches, in the order of their first job."""
    groups: dict[Any, list[RootJob]] = {}
    for job in jobs:
        groups.setdefault(job.alike, []).append(job)
    batches = []
    for group in groups.values():
        first = group[0]
        matrices = [job.matrix for job in group]
        matrix = matrices[0] if len(group) == 1 else namespace(first.matrix).concat(matrices, axis=0)
        members = tuple((job.key, np.asarray(job.index).tobytes()) for job in group)
        batch = RootBatch(
            matrix, first.exponent, first.regularization, first.method, first.dtype, members, first.due, first.task
        )
        batches.append((batch, group))
    return batches


def compute(batch: RootBatch) -> RootAnswer:
    """Compute the roots of a batch with one call of `matroot.solve`, or its bases."""
    return begin(batch)()


def begin(batch: RootBatch) -> Callable[[], RootAnswer]:
    """Do the first half of `compute`, and return the function that does the second; of bases there is no first."""
    if batch.task != "root":
        return partial(_bases, batch)
    start = time.perf_counter()
    p, method, dtype = batch.exponent.denominator, batch.method, batch.dtype
    with one_blas_thread():
        A = cast(unpack(batch.matrix), dtype)
        finish = solve_in_two(A, p, method=method, regularization=batch.regularization, compute_dtype=dtype)
    spent = time.perf_counter() - start
    return lambda: answered(batch, finish, spent)


def _bases(batch: RootBatch) -> RootAnswer:
    start = time.perf_counter()
    with one_blas_thread():
        Q, facts = new_bases(*operands(batch), batch.task, batch.dtype)
    host = {name: np.asarray(to_host(facts[name])).astype(kind) for name, kind in FACTS.items()}
    return RootAnswer(Q.reshape(batch.answer_shape), host, time.perf_counter() - start)


def operands(batch: RootBatch) -> tuple[Array, Array | None]:
    """Return the statistics (k, n, n) of a batch, and the bases to refine if there are any."""
    n, x = batch.n, batch.matrix
    size = packed_size(n)
    return unpack(x[:, :size]), x[:, size:].reshape(-1, n, n) if batch.task == "qr" else None


def answered(batch: RootBatch, root: Callable[[], RootResult[Any]], spent: float = 0.0) -> RootAnswer:
    """Compute the answer to a batch with a function that gives A^{-1/p}, p the denominator of the exponent.

    `spent` seconds have gone before.
    """
    start = time.perf_counter() - spent
    own = dtype_name(batch.matrix)
    with one_blas_thread():  # also for the products below, so that every engine gives the same bits
        result = root()
        X = result.x
        for _ in range(-batch.exponent.numerator - 1):
            X = result.x @ X
    with np.errstate(over="ignore"):
        packed = cast(pack(X), own)
    facts = {name: np.asarray(to_host(getattr(result, name))).astype(kind) for name, kind in FACTS.items()}
    return RootAnswer(packed, facts, time.perf_counter() - start)


def stale_error(
    root: Array, packed: Array, exponent: Fraction, ridge: Any, *, scale_free: bool, probes: int = 8
) -> Any:
    """Estimate the error (k,) of old roots X for new statistics A: ``||X^b A'^a - c I||_F / sqrt(n)``.

    Uses `probes` fixed vectors of +-1, in O(n^2); the square of the estimate is unbiased. A' = A + ridge I with the
    absolute ridge of the old root; exponent = -a/b. If `scale_free`, c is the best factor instead of 1, because with a
    graft a multiple of the root is as good as the root.
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
