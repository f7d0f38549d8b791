"""Calls of executors in threads where no signal handler runs.

Python runs signal handlers in the main thread. One that raises inside of `concurrent.futures`, as that of Ctrl-C does,
may leave a lock taken, for which the workers then wait for ever.
"""

from __future__ import annotations

import threading
from _thread import start_new_thread
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue


def aside(work: Callable[[], object]) -> None:
    """Call a function that does not raise, in a thread of its own; another thread than the main one calls it itself."""
    if threading.get_ident() == threading.main_thread().ident:
        try:
            start_new_thread(work, ())
            return
        except RuntimeError:  # Python is exiting, and starts no more threads
            pass
    work()


def apart(work: Callable[[], object], timeout: float | None = None) -> None:
    """Call a function as `aside` does, and wait until it ends; a handler that raises, or `timeout`, ends the wait."""
    done: SimpleQueue[None] = SimpleQueue()

    def tell() -> None:
        try:
            work()
        finally:
            done.put(None)

    aside(tell)
    with suppress(Empty):
        done.get(timeout=timeout)
