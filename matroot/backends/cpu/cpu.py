"""The CPU: LAPACK and BLAS through numpy and scipy, and a thread pool over the batch.

A batch is divided into chunks small enough to stay in cache, and each thread works on one chunk at a time. BLAS is
held at one thread, see `matroot.backends.cpu.blas`: many small products, one per thread, are faster than one product
on many threads, and the bits of a root do not depend on concurrent work.
"""

from __future__ import annotations

import os
import sys
from _thread import start_new_thread
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import Context, copy_context
from functools import cache
from queue import SimpleQueue
from typing import Any

import numpy as np

from matroot.backends.cpu.blas import held_in_its_thread, one_blas_thread
from matroot.backends.cpu.lapack import eigh_single
from matroot.backends.linalg import combine, hermitian_part
from matroot.backends.loading import deferred

NDArray = np.ndarray

#: Bytes of one n x n stack of a chunk, so that a few such stacks fit in a core's second-level cache.
CHUNK_BYTES = 1 << 17


class CPU:
    """Products and factorizations on numpy arrays."""

    xp: Any = np
    name = "cpu"
    #: precision to which factors of products are rounded: none
    rounding = ""
    fast_float64 = True

    def matmul(self, a: NDArray, b: NDArray, out: NDArray | None = None) -> NDArray:
        return np.matmul(a, b, out=out)

    def rank_k(self, a: NDArray) -> NDArray:
        """Compute ``a @ a^H``, exactly Hermitian; for real matrices numpy calls BLAS syrk, at half the work.

        What BLAS sees as ``b^T b`` is faster by tiles.
        """
        if a.dtype.kind != "c":
            G = deferred("matroot.backends.cpu.products").gram(a.swapaxes(-1, -2))
            return self.matmul(a, a.swapaxes(-1, -2)) if G is None else G
        return np.asarray(hermitian_part(np.matmul(a, a.conj().swapaxes(-1, -2))))

    def eigh(self, A: NDArray) -> tuple[NDArray, NDArray]:
        """Compute ascending eigenvalues (B, n) and eigenvectors (B, n, n) in the dtype of A, which is overwritten.

        LAPACK's divide and conquer (syevd, heevd) is used, the fastest driver that computes all vectors. NaN where the
        driver fails.
        """
        if A.dtype in (np.float32, np.complex64):  # numpy would compute these in double precision
            return eigh_single(A)
        try:
            w, Q = np.linalg.eigh(A)
            return w, Q
        except np.linalg.LinAlgError:  # one matrix failed: solve the others one by one
            if len(A) == 1:
                return np.full(A.shape[:-1], np.nan), np.full_like(A, np.nan)
            each = [self.eigh(A[i : i + 1]) for i in range(len(A))]
            return np.concatenate([w for w, _ in each]), np.concatenate([Q for _, Q in each])

    def eigvalsh(self, A: NDArray) -> NDArray:
        return np.linalg.eigvalsh(A)

    def run_chunks(self, work: Callable[[slice], None], B: int, n: int, itemsize: int) -> None:
        """Call `work` on slices of the batch that cover it, on a thread pool when there are several."""
        cores = threads()
        size = max(1, min(CHUNK_BYTES // max(1, n * n * itemsize), -(-B // cores)))
        slices = [slice(i, min(i + size, B)) for i in range(0, B, size)]
        with one_blas_thread():
            in_threads(held_in_its_thread(work), slices)

    def combine(self, s: float, S: NDArray, m: float, M: NDArray, d: float, out: NDArray, scratch: NDArray) -> None:
        combine(s, S, m, M, d, out, scratch, np)

    def eps(self, dtype: Any) -> float:
        return float(np.finfo(dtype).eps)

    def here(self, origin: Any) -> AbstractContextManager[Any]:
        """Return a block with one BLAS thread; CPU arrays need no device context. See `GPU.here`."""
        return one_blas_thread()

    def any(self, mask: NDArray) -> bool:
        return bool(mask.any())

    def sync_free(self) -> bool:
        return False


def usable_cores() -> int:
    """Return the number of cores this process may run on; ``MATROOT_NUM_THREADS`` lowers it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("MATROOT_NUM_THREADS", "")
    return max(1, min(cores, int(limit))) if limit.isdigit() else cores


def threads() -> int:
    """Return the number of threads for a batch: one per usable core, but if torch is loaded at most torch's number."""
    told = getattr(sys.modules.get("torch"), "get_num_threads", None)
    return usable_cores() if told is None else max(1, min(usable_cores(), told()))


def in_threads(work: Callable[[slice], None], slices: list[slice]) -> None:
    """Call `work` on every slice; in threads when there are several, which have the caller's error state of numpy.

    A signal handler that raises leaves these queues, which are written in C, whole. It can leave a lock of
    `concurrent.futures` taken, so that the next call waits for ever.
    """
    count = threads()
    if len(slices) == 1 or count == 1:
        for part in slices:
            work(part)
        return
    answers: SimpleQueue[BaseException | None] = SimpleQueue()
    left: list[bool] = []
    tasks = _pool(count)
    try:
        for part in slices:
            tasks.put((copy_context(), work, part, answers, left))
        errors = [error for error in [answers.get() for _ in slices] if error is not None]
    finally:
        left.append(True)  # what has not begun by now is not done
    if errors:
        raise errors[0]


@cache
def _pool(cores: int) -> SimpleQueue[Any]:
    """Return the queue of so many threads, which end with the process."""
    tasks: SimpleQueue[Any] = SimpleQueue()
    for _ in range(cores):
        start_new_thread(_serve, (tasks,))
    return tasks


def _serve(tasks: SimpleQueue[Any]) -> None:
    while True:
        _perform(*tasks.get())


def _perform(
    context: Context,
    work: Callable[[slice], None],
    part: slice,
    answers: SimpleQueue[BaseException | None],
    left: list[bool],
) -> None:
    try:
        if not left:
            context.run(work, part)
    except BaseException as error:  # for the caller to raise
        answers.put(error)
    else:
        answers.put(None)


if hasattr(os, "register_at_fork"):  # threads do not survive a fork: the child starts its own pool
    os.register_at_fork(after_in_child=_pool.cache_clear)
