"""Batches sent to workers. Every answer is checked, and `timeout` limits the wait."""

from __future__ import annotations

import math
import os
import time
from concurrent.futures import BrokenExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

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
        self.lost = False  # the executor broke, or hangs
        self.unreachable = False  # the worker could not open the memory

    def wait(self, timeout: float | None) -> RootAnswer | Failure:
        """Wait for the answer and check it."""
        try:
            return self._checked(self.future.result(self.together.left(timeout)))
        except BaseException as error:
            # An error raised by the worker, SystemExit included, is a failure; a KeyboardInterrupt here is not.
            if not isinstance(error, Exception) and not self._came_back(error):
                raise
            late = isinstance(error, TimeoutError) and not self._came_back(error)
            self.lost = late or isinstance(error, BrokenExecutor)
            self.unreachable = isinstance(error, UnreachableError)
            return Failure(f"not there after {timeout} s" if late else told(error))

    def _came_back(self, error: BaseException) -> bool:
        """Return True if the future holds the error, False if the error was raised here."""
        future = self.future
        known: bool = hasattr(future, "exception") and future.done() and not future.cancelled()
        return known and future.exception() is error

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
            if self.future is not None and not hasattr(self.executor, "_processes"):
                with suppress(Exception):
                    self.future.cancel()  # not for process pools: if one breaks later, a cancelled future is an error
            self.future = None
        if self.memory is not None:
            self.memory.close()
            self.memory = None
        return answer


def _kind(values: Any) -> tuple[str, str, tuple[int, ...]]:
    """Return the library, the dtype and the shape of an array."""
    return type(values).__module__.partition(".")[0], str(values.dtype), tuple(values.shape)


def told(error: BaseException) -> str:
    """Describe an error, even if its repr raises."""
    try:
        return repr(error)
    except Exception:
        return type(error).__name__
