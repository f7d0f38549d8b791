"""One BLAS thread while roots are computed.

The number of BLAS threads is one setting of the process: a thread pool holds the training thread's BLAS as well,
while it has work. A process of its own holds nobody else's.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any


class _Held:
    """How many blocks hold BLAS now: the first sets the limit, the last takes it off."""

    lock = threading.Lock()
    count = 0
    before: tuple[int, ...] = ()


@cache
def _libraries() -> list[Any]:
    import scipy.linalg  # noqa: F401  its BLAS has to be loaded before it can be held
    from threadpoolctl import ThreadpoolController

    return list(ThreadpoolController().select(user_api="blas").lib_controllers)


def _set(threads: tuple[int, ...]) -> None:
    for library, count in zip(_libraries(), threads, strict=True):
        # threadpoolctl >= 3.7 lets only the first thread that asked set OpenBLAS; workers are never that one.
        release = getattr(type(library), "clear_controlling_thread", None)
        if release is not None:
            release(force=True)
        library.set_num_threads(count)
        if release is not None:
            release(force=True)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """BLAS at one thread while the block runs, in this process; restored after the last of overlapping blocks."""
    with _Held.lock:
        if _Held.count == 0:
            _Held.before = tuple(library.num_threads for library in _libraries())
            _set((1,) * len(_Held.before))
        _Held.count += 1
    try:
        yield
    finally:
        with _Held.lock:
            _Held.count -= 1
            if _Held.count == 0:
                _set(_Held.before)
