"""Where roots are computed. An engine takes batches and gives answers; it knows nothing of the optimizer.

The rule of determinism: what is submitted at step t is installed exactly at step t + lag, and waited for if it is
late. So every engine gives the same numbers, and only the time differs.
"""

from __future__ import annotations

import os
import sys
import time
import weakref
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import shared_memory
from typing import Any, Protocol, Self

import numpy as np

from matroot_optim.roots import RootAnswer, RootBatch, compute


@dataclass(frozen=True)
class Failure:
    """No answer came, and why."""

    reason: str


class Engine(Protocol):
    """Anything with these can compute roots."""

    lag: int

    def submit(self, batch: RootBatch) -> Any:
        """Start on a batch and return a handle of it."""

    def collect(self, handle: Any) -> RootAnswer | Failure:
        """The answer of a handle, waited for; asking twice gives the same."""


class Clock:
    """Seconds an engine has spent: computing roots anywhere, and waited for by the training thread."""

    def __init__(self) -> None:
        self.root_seconds = 0.0
        self.waited_seconds = 0.0
        self.answers = 0
        self.failures = 0

    def __repr__(self) -> str:
        return (
            f"{self.answers} answers, {self.failures} failures, {self.root_seconds:.3g} s in roots, "
            f"{self.waited_seconds:.3g} s waited"
        )


class InlineEngine:
    """Roots in the training thread, at once; with a lag they are used later all the same.

    Parameters
    ----------
    lag : int
        Steps between submission and use: what an `ExecutorEngine` of the same lag gives, without the workers.
    """

    def __init__(self, lag: int = 0) -> None:
        self.lag = _checked_lag(lag)
        self.clock = Clock()

    def submit(self, batch: RootBatch) -> RootAnswer:
        answer = self.answer(batch)
        self.clock.root_seconds += answer.seconds
        self.clock.waited_seconds += answer.seconds
        self.clock.answers += 1
        return answer

    def answer(self, batch: RootBatch) -> RootAnswer:
        """The roots of a batch, computed here and now."""
        return compute(batch)

    def collect(self, handle: RootAnswer) -> RootAnswer:
        return handle

    def __repr__(self) -> str:
        return f"InlineEngine(lag={self.lag})"


class ExecutorEngine:
    """Roots on any executor: threads, processes, loky, Dask's and mpi4py's, by `submit` and `result` alone.

    A worker that raises, dies or is later than `timeout` costs the optimizer a counter and keeps the old root.

    Parameters
    ----------
    executor : Executor, or a function that makes one
        A function is called at the first job, and again when its executor breaks; the engine owns what it made
        and shuts it down in `close`. An executor given as it is belongs to the caller.
    lag : int
        Steps between submission and use. 0 waits for every root at once.
    timeout : float or None
        Seconds to wait for a job that is due; None waits for ever.
    shared_memory : bool or None
        Pass matrices through shared memory instead of a pipe: for workers on the same machine. None: for a
        `ProcessPoolExecutor`.

    Examples
    --------
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> from matroot_optim import ExecutorEngine
    >>> with ExecutorEngine(lambda: ThreadPoolExecutor(1), lag=10, timeout=60.0) as engine:
    ...     engine
    ExecutorEngine(lag=10, timeout=60.0)
    """

    #: A worker knows neither the stream nor the device that an array on a card was made on.
    host_only = True

    def __init__(
        self,
        executor: Any,
        *,
        lag: int = 0,
        timeout: float | None = None,
        shared_memory: bool | None = None,
    ) -> None:
        self.lag = _checked_lag(lag)
        if timeout is not None and not timeout > 0:
            raise ValueError(f"timeout must be None or a number of seconds > 0, got {timeout!r}")
        self._make = None if hasattr(executor, "submit") else executor
        if self._make is not None and not callable(self._make):
            raise TypeError(f"executor must have submit or make an executor, got {executor!r}")
        self._executor = executor if self._make is None else None
        self.timeout = timeout
        self._shared = shared_memory
        self._open: set[Sent] = set()
        self._finalizer = weakref.finalize(self, _let_go, self._open)  # of an engine that nobody closed
        self.clock = Clock()

    def submit(self, batch: RootBatch) -> Sent:
        sent = Sent()
        try:
            self._start(batch, sent)
        except (BrokenExecutor, RuntimeError, OSError) as broken:
            # The job of this step is lost; an executor of our own is made anew for the next.
            sent.finish(Failure(f"could not submit: {broken!r}"))
            self.clock.failures += 1
            self._drop_executor(wait=False)
        self._open.add(sent)
        return sent

    def _start(self, batch: RootBatch, sent: Sent) -> None:
        if self._executor is None:
            if self._make is None:
                raise RuntimeError("the engine is closed")
            self._executor = self._make()
        sent.executor = self._executor
        shared = isinstance(self._executor, ProcessPoolExecutor) if self._shared is None else self._shared
        if shared and isinstance(batch.matrix, np.ndarray) and batch.matrix.nbytes:
            sent.memory = shared_memory.SharedMemory(create=True, size=batch.matrix.nbytes)
            _write(sent.memory, batch.matrix)
            sent.shape, sent.dtype = batch.matrix.shape, batch.matrix.dtype.str
            empty = replace(batch, matrix=np.empty((0, 0), batch.matrix.dtype))
            sent.future = self._executor.submit(
                _compute_shared, empty, sent.memory.name, sent.shape, sent.dtype, os.getpid()
            )
        else:
            sent.future = self._executor.submit(_compute_sent, batch, os.getpid())

    def collect(self, handle: Sent) -> RootAnswer | Failure:
        if handle.answer is not None:
            return handle.answer
        begin = time.perf_counter()
        answer = handle.finish(handle.wait(self.timeout))
        self.clock.waited_seconds += time.perf_counter() - begin
        if isinstance(answer, RootAnswer):
            self.clock.answers += 1
            self.clock.root_seconds += answer.seconds
        else:
            self.clock.failures += 1
        # An executor that broke, or has a worker that hangs, is of no more use: the next job gets a new one.
        if isinstance(handle.error, BrokenExecutor | TimeoutError) and handle.executor is self._executor:
            self._drop_executor(wait=False)
        self._open.discard(handle)
        return answer

    def _drop_executor(self, wait: bool) -> None:
        if self._make is not None and self._executor is not None:
            _shut_down(self._executor, wait, self.timeout)
            self._executor = None

    def close(self) -> None:
        """Give up open jobs and shut down the executor if the engine made it: no thread or process stays.

        A thread that hangs cannot be stopped by anyone: it is waited for as long as for its job, and left.
        """
        _let_go(self._open)
        self._drop_executor(wait=True)
        self._make = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"ExecutorEngine(lag={self.lag}, timeout={self.timeout})"


class Sent:
    """A batch on its way: its future, the shared memory that holds it, and the answer once there is one."""

    def __init__(self) -> None:
        self.future: Any = None
        self.executor: Any = None
        self.memory: shared_memory.SharedMemory | None = None
        self.shape: tuple[int, ...] = ()
        self.dtype = ""
        self.answer: RootAnswer | Failure | None = None
        self.error: BaseException | None = None

    def wait(self, timeout: float | None) -> RootAnswer | Failure:
        try:
            answer: RootAnswer = self.future.result(timeout)
        except TimeoutError as late:
            self.error = late
            return Failure(f"not there after {timeout} s")
        except Exception as error:  # whatever a worker raises is its failure and not the run's
            self.error = error
            return Failure(repr(error))
        if not isinstance(answer, RootAnswer):
            return Failure(f"the worker returned {type(answer).__name__}, not a RootAnswer")
        if self.memory is not None:
            answer = replace(answer, root=_read(self.memory, self.shape, self.dtype))
        return answer

    def finish(self, answer: RootAnswer | Failure) -> RootAnswer | Failure:
        """Keep the answer, and let go of everything else."""
        self.answer = answer
        if self.future is not None and not hasattr(self.executor, "_processes"):
            self.future.cancel()  # a pool of processes that breaks later trips over a cancelled future
        if self.memory is not None:
            self.memory.close()
            self.memory.unlink()
            self.memory = None
        return answer


def _checked_lag(lag: int) -> int:
    if isinstance(lag, bool) or not isinstance(lag, int) or lag < 0:
        raise ValueError(f"lag must be an int >= 0, got {lag!r}")
    return lag


def _compute_sent(batch: RootBatch, home: int) -> RootAnswer:
    """`compute` in a worker: a process of its own uses one thread, whatever the machine has."""
    if os.getpid() != home:
        os.environ["MATROOT_NUM_THREADS"] = "1"
    return compute(batch)


def _compute_shared(batch: RootBatch, name: str, shape: tuple[int, ...], dtype: str, home: int) -> RootAnswer:
    """`compute` with the matrices in shared memory, where the roots take their place."""
    memory = shared_memory.SharedMemory(name, **({"track": False} if sys.version_info >= (3, 13) else {}))
    try:
        answer = _compute_sent(replace(batch, matrix=_read(memory, shape, dtype)), home)
        _write(memory, answer.root)
        return replace(answer, root=None)
    finally:
        memory.close()


def _read(memory: shared_memory.SharedMemory, shape: tuple[int, ...], dtype: str) -> Any:
    return np.ndarray(shape, dtype, buffer=memory.buf).copy()


def _write(memory: shared_memory.SharedMemory, values: Any) -> None:
    np.ndarray(values.shape, values.dtype, buffer=memory.buf)[...] = values


def _let_go(handles: set[Sent]) -> None:
    """Give up jobs, and with them the shared memory they hold."""
    for sent in handles:
        if sent.answer is None:
            sent.finish(Failure("the engine was closed"))
    handles.clear()


def _shut_down(executor: Any, wait: bool, timeout: float | None) -> None:
    """Stop an executor of our own, without waiting longer than `timeout` for a worker that hangs."""
    workers = list((getattr(executor, "_processes", None) or {}).values())
    threads = list(getattr(executor, "_threads", ()))
    for worker in workers:
        _kill(worker)
    if threads:
        executor.shutdown(wait=False, cancel_futures=True)
        for thread in threads if wait else ():
            thread.join(timeout)
    else:
        executor.shutdown(wait=wait or bool(workers))
    for worker in workers:
        worker.join()


def _kill(worker: Any) -> None:
    try:
        worker.kill()
    except AttributeError:  # loky's cannot
        worker.terminate()
