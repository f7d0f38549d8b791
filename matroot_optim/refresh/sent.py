"""Batches sent to workers. Every answer is checked, and `timeout` limits the wait."""

from __future__ import annotations

import math
import os
import time
import weakref
from concurrent.futures import BrokenExecutor, Future
from contextlib import suppress
from dataclasses import replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from matroot_optim.refresh.apart import apart, aside
from matroot_optim.refresh.jobs import FACTS, Failure, RootAnswer, RootBatch
from matroot_optim.refresh.shared import SharedArray, UnreachableError


class Together:
    """The batches due in one step, which share `timeout`; it starts with the first wait."""

    def __init__(self, due: int) -> None:
        self.due = due
        self.deadline: float | None = None

    def left(self, timeout: float | None) -> float | None:
        """Return the seconds left to wait; None means no limit."""
        if timeout is None:
            return None
        now = time.monotonic()
        if self.deadline is None:
            self.deadline = now + timeout
        return max(self.deadline - now, 0.0)


class Sent:
    """A sent batch: its future, its shared memory, and finally its answer."""

    def __init__(self, batch: RootBatch, together: Together) -> None:
        self.together = together
        self.wanted = (*_kind(batch.matrix)[:2], batch.answer_shape)
        self.home = os.getpid()
        self.future: Any = None
        self.executor: Any = None
        self.memory: SharedArray | None = None
        self.answer: RootAnswer | Failure | None = None
        self.came: RootAnswer | Failure | None = None  # what the worker has answered
        self.silent = False  # the future has to be asked
        self.there: SimpleQueue[None] = SimpleQueue()  # written in C: an interrupt leaves it whole
        self.lost = False  # the executor broke, or hangs
        self.unreachable = False  # the worker could not open the memory

    def follow(self) -> None:
        """Have the answer delivered when it is there. Only futures of the standard library are sure to call back."""
        future = self.future  # `finish` in another thread may drop it
        if not isinstance(future, Future):
            self.silent = True
            self.there.put(None)
            return
        mine = weakref.ref(self)  # a job that nobody awaits frees its memory

        def deliver(future: Any) -> None:
            sent = mine()
            if sent is not None:
                sent._deliver(future, None)

        future.add_done_callback(deliver)

    def _deliver(self, future: Any, timeout: float | None) -> None:
        try:
            self.come(self._checked(future.result(timeout)))
        except BaseException as error:  # of the worker, SystemExit included
            late = isinstance(error, TimeoutError) and not _came_back(future, error)
            self.lost = late or isinstance(error, BrokenExecutor)
            self.unreachable = isinstance(error, UnreachableError)
            self.come(Failure(f"not there after {timeout} s" if late else told(error)))

    def come(self, answer: RootAnswer | Failure) -> None:
        """Deliver an answer to the thread that waits."""
        self.came = answer
        self.there.put(None)

    def wait(self, timeout: float | None) -> RootAnswer | Failure:
        """Wait for the answer."""
        left = self.together.left(timeout)
        if self.came is None and not self.silent:  # else an interrupted wait may have taken what the queue had
            try:
                self.there.get(timeout=left)
            except Empty:
                self.lost = True
                return Failure(f"not there after {timeout} s")
        if self.came is None:
            apart(partial(self._deliver, self.future, left))
        assert self.came is not None
        return self.came

    def _checked(self, given: Any) -> RootAnswer | Failure:
        if not isinstance(given, RootAnswer):
            return Failure(f"the worker returned {type(given).__name__}, not a RootAnswer")
        answer: RootAnswer = given if self.memory is None else replace(given, root=self.memory.read())
        if set(answer.facts) != set(FACTS):
            return Failure(f"the worker returned other facts: {', '.join(map(str, answer.facts))}")
        count = self.wanted[-1][:1]
        wanted = {name: ("numpy", str(np.dtype(kind)), count) for name, kind in FACTS.items()}
        for name, values in {"root": answer.root, **answer.facts}.items():
            found, right = _kind(values), wanted.get(name, self.wanted)
            if found != right:
                return Failure(f"the worker returned a {name} that is {found} and not {right}")
        if not 0 <= answer.seconds < math.inf:
            return Failure(f"the worker returned seconds = {answer.seconds!r}")
        return answer

    def finish(self, answer: RootAnswer | Failure) -> RootAnswer | Failure:
        """Keep the answer and release everything else."""
        self.answer = answer
        if self.home == os.getpid():  # in a forked process, a lock of the future may never be released
            future, self.future = self.future, None
            if future is not None and self.came is None and not hasattr(self.executor, "_processes"):
                aside(partial(_cancel, future))  # not for process pools: if one breaks later, this is an error
        memory, self.memory = self.memory, None
        if memory is not None:
            memory.close()
        return answer


def _kind(values: Any) -> tuple[str, str, tuple[int, ...]]:
    """Return the library, the dtype and the shape of an array."""
    return type(values).__module__.partition(".")[0], str(values.dtype), tuple(values.shape)


def _came_back(future: Any, error: BaseException) -> bool:
    """Return True if the future holds the error, False if the wait raised it."""
    known: bool = hasattr(future, "exception") and future.done() and not future.cancelled()
    return known and future.exception() is error


def _cancel(future: Any) -> None:
    with suppress(Exception):
        future.cancel()


def told(error: BaseException) -> str:
    """Describe an error, even if its repr raises."""
    try:
        return repr(error)
    except Exception:
        return type(error).__name__
