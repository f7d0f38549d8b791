"""Executors that an engine makes: the function that does it is checked, workers end with this process, and all ends."""

from __future__ import annotations

import inspect
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from matroot_optim.refresh.worker import begin

#: Seconds that killed processes get to be gone.
GRACE = 2.0


def maker(executor: Any) -> Callable[[], Any] | None:
    """Return the function that makes executors, or None for an executor as it is.

    Raises
    ------
    TypeError
        It is neither, as far as can be seen without a call.
    """
    if not isinstance(executor, type) and callable(getattr(executor, "submit", None)):
        return None
    if not callable(executor) or (isinstance(executor, type) and not callable(getattr(executor, "submit", None))):
        raise TypeError(f"executor must have submit or make an executor, got {executor!r}")
    try:
        signature = inspect.signature(executor)
    except (ValueError, TypeError):  # not every callable says what it takes
        return executor  # type: ignore[no-any-return]
    try:
        signature.bind()
    except TypeError as error:
        raise TypeError(f"executor must make an executor without arguments, got {executor!r}: {error}") from None
    return executor  # type: ignore[no-any-return]


def made(make: Callable[[], Any]) -> Any:
    """Make an executor; if its workers are processes, they will end with this one."""
    executor = make()
    if not callable(getattr(executor, "submit", None)):
        raise TypeError(f"{make!r} made {executor!r}, which has no submit")
    if all(hasattr(executor, name) for name in ("_processes", "_initializer", "_initargs")):
        if executor._initializer is not begin:  # loky gives the same executor again
            executor._initializer, executor._initargs = begin, (executor._initializer, executor._initargs)
    return executor


def shut_down(executor: Any, *, wait: bool, timeout: float | None) -> None:
    """Stop an executor of our own: kill its processes; wait for its threads no longer than `timeout`, and leave them.

    Parameters
    ----------
    executor : Executor
    wait : bool
        Wait for work in threads.
    timeout : float or None
        Seconds, or None for ever.
    """
    workers = list((getattr(executor, "_processes", None) or {}).values())
    threads = list(getattr(executor, "_threads", ()))
    for worker in workers:
        with suppress(ProcessLookupError):
            _kill(worker)

    def stop() -> None:
        with suppress(Exception):  # a client that was closed before
            if threads:
                executor.shutdown(wait=False, cancel_futures=True)
            else:
                executor.shutdown(wait=wait or bool(workers))
        for worker in workers:
            worker.join(GRACE)

    patience = timeout if wait and not workers else GRACE
    until = None if patience is None else time.monotonic() + patience
    for thread in (_started(stop), *(threads if wait else ())):
        if thread is not None:
            thread.join(until if until is None else max(until - time.monotonic(), 0.0))


def _started(work: Callable[[], None]) -> threading.Thread | None:
    """Start work in a thread; do it here when Python, which is about to exit, starts no more threads."""
    thread = threading.Thread(target=work, name="matroot shutdown", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        work()
        return None
    return thread


def _kill(worker: Any) -> None:
    try:
        worker.kill()
    except AttributeError:  # loky's has no kill, and a process that was stopped does not end by SIGTERM
        if worker.exitcode is None:
            os.kill(worker.pid, signal.SIGKILL)
