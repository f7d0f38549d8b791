"""Executors that an engine makes: the check of the function, workers that end with this process, and the shutdown."""

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

#: Seconds to wait for killed processes to end.
GRACE = 2.0


def maker(executor: Any) -> Callable[[], Any] | None:
    """Return the function that makes executors, or None if `executor` is an executor; TypeError if it is neither."""
    if not isinstance(executor, type) and callable(getattr(executor, "submit", None)):
        return None
    if not callable(executor) or (isinstance(executor, type) and not callable(getattr(executor, "submit", None))):
        raise TypeError(f"executor must have submit or make an executor, got {executor!r}")
    try:
        signature = inspect.signature(executor)
    except (ValueError, TypeError):  # not every callable has a signature
        return executor
    try:
        signature.bind()
    except TypeError as error:
        raise TypeError(f"executor must make an executor without arguments, got {executor!r}: {error}") from None
    return executor


def made(make: Callable[[], Any]) -> Any:
    """Make an executor; if its workers are processes, they will end with this process."""
    executor = make()
    if not callable(getattr(executor, "submit", None)):
        raise TypeError(f"{make!r} made {executor!r}, which has no submit")
    if all(hasattr(executor, name) for name in ("_processes", "_initializer", "_initargs")):
        if executor._initializer is not begin:  # loky gives the same executor again
            executor._initializer, executor._initargs = begin, (executor._initializer, executor._initargs)
    return executor


def shut_down(executor: Any, *, wait: bool, timeout: float | None) -> None:
    """Stop an executor that the engine made: kill its processes, wait for its threads at most `timeout` seconds.

    `wait` for work in threads; a timeout of None waits without limit.
    """
    workers = list((getattr(executor, "_processes", None) or {}).values())
    threads = list(getattr(executor, "_threads", ()))
    for worker in workers:
        with suppress(ProcessLookupError):
            _kill(worker)

    def stop() -> None:
        with suppress(Exception):  # for example, a client that is already closed
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
    """Start work in a thread; if Python is exiting and starts no more threads, do the work here."""
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
    except AttributeError:  # loky's worker has no kill, and SIGTERM does not end a stopped process
        if worker.exitcode is None:
            os.kill(worker.pid, signal.SIGKILL)
