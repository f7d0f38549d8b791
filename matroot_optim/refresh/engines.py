"""Engines, which compute roots. An engine takes batches and gives answers, without knowledge of the optimizer.

A batch submitted at step t is installed exactly at step t + lag; if it is late, the step waits. So every engine gives
the same numbers, and only the time differs.
"""

from __future__ import annotations

import math
import os
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol, Self

import numpy as np

from matroot_optim.allowed import is_int
from matroot_optim.refresh import shared
from matroot_optim.refresh.apart import apart, aside
from matroot_optim.refresh.executors import GRACE, made, maker, shut_down
from matroot_optim.refresh.jobs import Failure, RootAnswer, RootBatch, begin
from matroot_optim.refresh.sent import Sent, Together, told
from matroot_optim.refresh.worker import compute_in_pool, compute_sent

__all__ = ["Clock", "Engine", "ExecutorEngine", "Failure", "InlineEngine"]


class Engine(Protocol):
    """Protocol of an object that computes roots."""

    lag: int

    def submit(self, batch: RootBatch) -> Any:
        """Start a batch and return a handle."""

    def collect(self, handle: Any) -> RootAnswer | Failure:
        """Wait for the answer of a handle and return it; a second call gives the same answer."""


class Clock:
    """Seconds spent computing roots in any thread or process, and seconds that the training thread waited."""

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


class Begun:
    """The handle of a batch of which an `InlineEngine` has done the first half."""

    def __init__(self, finish: Callable[[], RootAnswer]) -> None:
        self.finish: Callable[[], RootAnswer] | None = finish
        self.answer: RootAnswer | None = None


class InlineEngine:
    """Engine that computes roots in the training thread: a first half when they are submitted, the rest when used.

    Parameters
    ----------
    lag : int
        Steps between submission and use. With a lag, all is computed when it is submitted. The numbers are those of
        an `ExecutorEngine` of the same lag.
    """

    def __init__(self, lag: int = 0) -> None:
        self.lag = _checked_lag(lag)
        self.clock = Clock()

    def submit(self, batch: RootBatch) -> Begun:
        begun = Begun(self.begin(batch))
        if self.lag:  # the work spaces of many steps would be kept
            self.collect(begun)
        return begun

    def begin(self, batch: RootBatch) -> Callable[[], RootAnswer]:
        """Do the first half of the work on a batch, and return the function that does the second."""
        return begin(batch)

    def collect(self, handle: Begun) -> RootAnswer:
        if handle.answer is None:
            assert handle.finish is not None
            answer = handle.answer = handle.finish()
            handle.finish = None  # with its work space
            self.clock.root_seconds += answer.seconds
            self.clock.waited_seconds += answer.seconds
            self.clock.answers += 1
        return handle.answer

    def __repr__(self) -> str:
        return f"InlineEngine(lag={self.lag})"


class ExecutorEngine:
    """Engine on any executor: threads, processes, loky's, Dask's and mpi4py's. Needs only `submit` and `result`.

    If a worker, an executor or a client raises, dies, returns anything but roots, or is later than `timeout`, the
    failure is counted and the old root is kept.

    Parameters
    ----------
    executor : Executor, or a function that makes one
        A function is called at the first job, and again after its executor breaks; the engine owns this executor and
        shuts it down in `close`. An executor that is passed directly belongs to the caller.
    lag : int
        Steps between submission and use. 0 waits for every root at once.
    timeout : float or None
        Seconds that a step waits for all jobs due in it; None waits without limit while the worker lives.
    shared_memory : bool or None
        Pass matrices through shared memory instead of a pipe, to workers on the same machine, under Linux. None
        means True for a `ProcessPoolExecutor`.

    Raises
    ------
    TypeError
        `executor` neither has `submit` nor can be called without arguments, or is a class without `submit`.

    Notes
    -----
    The workers of a process pool end with the process that made the pool, even if that process is killed.

    A copy of an engine, and a forked process, make their own executor with the same function. Copies share an executor
    that was passed directly; such an engine cannot be pickled, and in a forked process its jobs fail.

    Examples
    --------
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> from matroot_optim import ExecutorEngine
    >>> with ExecutorEngine(lambda: ThreadPoolExecutor(1), lag=10, timeout=60.0) as engine:
    ...     engine
    ExecutorEngine(lag=10, timeout=60.0)
    """

    #: A worker knows neither the stream nor the device of a GPU array.
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
        self.timeout = _checked_timeout(timeout)
        self._make = maker(executor)
        self._executor = executor if self._make is None else None
        self._shared = shared_memory
        self._begin()

    def _begin(self) -> None:
        """Reset the engine to no jobs, in this process."""
        self._process = os.getpid()
        self._open: list[weakref.ref[Sent]] = []  # a WeakSet has callbacks, which would swallow a Ctrl-C
        self._together: Together | None = None
        self._lock: Any = threading.Lock()
        self.clock = Clock()

    def submit(self, batch: RootBatch) -> Sent:
        self._leave_the_parent()
        if self._together is None or self._together.due != batch.due or self._together.deadline is not None:
            self._together = Together(batch.due)
        sent = Sent(batch, self._together)
        self._open = [*(one for one in self._open if one() is not None), weakref.ref(sent)]
        # Nobody waits for the engine's own executor: the training thread would give Python's lock to busy workers. The
        # caller's may be shut down after this.
        if self._make is not None and self._executor is not None:
            aside(lambda: self._try_to_start(batch, sent, math.inf))
        else:
            apart(lambda: self._try_to_start(batch, sent, GRACE), self.timeout)
        return sent

    def _try_to_start(self, batch: RootBatch, sent: Sent, patience: float) -> None:
        """Start the job once no other is being started, or fail after `patience` seconds."""
        try:
            if not self._lock.acquire(timeout=min(patience, threading.TIMEOUT_MAX)):
                raise TimeoutError("the executor has not taken an earlier job yet")
            try:
                if sent.answer is not None:  # it was late, or the engine closed
                    return
                self._start(batch, sent)
            finally:
                self._lock.release()
            sent.follow()
        except BaseException as error:
            # The job of this step is lost; the next job gets a new executor if the engine makes it.
            sent.come(Failure(f"could not submit: {told(error)}"))
            self._drop_executor(sent.executor)
        if sent.answer is not None:  # given up while it was being started: nobody else frees what it holds now
            sent.finish(sent.answer)

    def _start(self, batch: RootBatch, sent: Sent) -> None:
        if self._executor is None:
            if self._make is None:
                raise RuntimeError("the engine was closed, or its executor belongs to the process this was forked from")
            executor = made(self._make)
            if self._make is None:  # the engine was closed meanwhile
                shut_down(executor, wait=False, timeout=self.timeout)
                raise RuntimeError("the engine was closed")
            self._executor = executor
        sent.executor = self._executor
        matrix = batch.matrix
        wanted = isinstance(self._executor, ProcessPoolExecutor) if self._shared is None else self._shared
        if wanted and shared.AVAILABLE and isinstance(matrix, np.ndarray) and matrix.nbytes:
            with suppress(OSError):  # out of memory or descriptors: use the pipe
                sent.memory = shared.SharedArray(matrix, batch.answer_shape)
                batch = replace(batch, matrix=np.empty((0, 0), matrix.dtype))
        address = None if sent.memory is None else sent.memory.address
        work = compute_in_pool if hasattr(self._executor, "_processes") else compute_sent
        sent.future = self._executor.submit(work, batch, address, os.getpid())

    def collect(self, handle: Sent) -> RootAnswer | Failure:
        if handle.answer is not None:
            return handle.answer
        self._leave_the_parent()
        begin = time.perf_counter()
        if handle.home != os.getpid():
            answer = handle.finish(Failure("the job belongs to the process that this one was forked from"))
        else:
            answer = handle.finish(handle.wait(self.timeout))
        self.clock.waited_seconds += time.perf_counter() - begin
        if isinstance(answer, RootAnswer):
            self.clock.answers += 1
            self.clock.root_seconds += answer.seconds
        else:
            self.clock.failures += 1
        if handle.unreachable:
            self._shared = False
        if handle.lost:
            apart(lambda: self._drop_executor(handle.executor))  # the next job gets a new one
        return answer

    def _leave_the_parent(self) -> None:
        """Drop jobs and executor in a forked process: threads are not copied, and workers answer the parent."""
        if self._process != os.getpid():
            clock, self._executor = self.clock, None
            self._begin()
            self.clock = clock

    def _drop_executor(self, only: Any = None, *, wait: bool = False, last: bool = False) -> None:
        """Shut down the executor that the engine has made; if `only` is given, unless another has taken its place."""
        held = self._lock.acquire(timeout=GRACE)  # not while a job is being started, but that may hang
        executor = None if self._make is None or only not in (None, self._executor) else self._executor
        if executor is not None:
            self._executor = None
        self._make = None if last else self._make
        if held:
            self._lock.release()
        if executor is not None:
            shut_down(executor, wait=wait, timeout=self.timeout)

    def close(self) -> None:
        """Cancel open jobs and shut down the executor if the engine made it: no thread or process remains.

        A thread that hangs cannot be stopped: `close` waits for it up to the timeout, then leaves it.
        """
        self._leave_the_parent()
        apart(self._close)

    def _close(self) -> None:
        for one in self._open:
            sent = one()
            if sent is not None and sent.answer is None:
                sent.finish(Failure("the engine was closed"))
        self._open = []
        self._drop_executor(wait=True, last=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __copy__(self) -> Self:
        """Copy the engine; the copy makes its own executor, or shares one that was passed directly."""
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__dict__)
        if copied._make is not None:
            copied._executor = None
        copied._begin()
        return copied

    def __deepcopy__(self, memo: object) -> Self:
        return self.__copy__()

    def __getstate__(self) -> dict[str, Any]:
        if self._make is None and self._executor is not None:
            raise TypeError(f"{self!r} must have a function that makes its executor to be pickled, not an executor")
        return {**self.__copy__().__dict__, "_open": None, "_lock": None}

    def __setstate__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)
        self._begin()

    def __repr__(self) -> str:
        return f"ExecutorEngine(lag={self.lag}, timeout={self.timeout})"


def _checked_lag(lag: int) -> int:
    if not is_int(lag) or lag < 0:
        raise ValueError(f"lag must be an int >= 0, got {lag!r}")
    return lag


def _checked_timeout(timeout: Any) -> float | None:
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0:
        raise ValueError(f"timeout must be None or a number of seconds > 0, got {timeout!r}")
    return min(timeout, threading.TIMEOUT_MAX)
