"""One BLAS thread while a root is computed, whatever the caller and other threads have set.

OpenBLAS splits a product by its number of threads, and the last bits of the result depend on the split. The number of
threads is a setting of the whole process, and a pool that solves a batch needs it to be one. So every root is computed
on one thread: the bits do not depend on concurrent work, and are the same inline, in a thread and in another process.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from itertools import product
from typing import Any

from matroot.backends.holds import Setting, held
from matroot.backends.loading import deferred

#: Functions that read and set the number of threads, by threadpoolctl's name of the kind of library.
FUNCTIONS = {
    "openblas": ("openblas_get_num_threads", "openblas_set_num_threads"),
    "blis": ("bli_thread_get_num_threads", "bli_thread_set_num_threads"),
    "flexiblas": ("flexiblas_get_num_threads", "flexiblas_set_num_threads"),
    "mkl": ("MKL_Get_Max_Threads", "MKL_Set_Num_Threads_Local"),
    "openmp": ("omp_get_max_threads", "omp_set_num_threads"),
}
#: A function that reads and a function that sets.
Functions = tuple[Callable[[], Any], Callable[[Any], Any]]
#: Kinds of library in which every thread has its own number.
OF_A_THREAD = ("mkl", "openmp")


def one_blas_thread() -> AbstractContextManager[Any]:
    """Return a block in which BLAS has one thread; the setting is restored after the last concurrent block.

    Every root is computed in such a block. Since the number of threads is a setting of the whole process, the block is
    also of use to programs that compute roots in their own threads, or whose own products should have the same bits
    whether or not roots are computed at the same time. Blocks may be nested. No signal handler that raises, such as
    Ctrl-C's, can skip the end of the block. A forked child drops the blocks of threads that it does not have.

    The environment variable ``MATROOT_BLAS_THREADS`` is the number of threads, if set. More than one thread can be
    faster for single matrices from n = 500 on, on idle cores. All processes need the same number for the same bits.

    Returns
    -------
    context manager

    Examples
    --------
    >>> import numpy as np
    >>> from matroot import inv_sqrtm, one_blas_thread
    >>> with one_blas_thread():
    ...     X = inv_sqrtm(np.diag([4.0, 1.0]))
    >>> X.diagonal()
    array([0.5, 1. ])
    """
    shared, own = _libraries()
    return held([shared] if own is None else [shared, own.setting], blas_threads())


def held_in_its_thread(work: Callable[[slice], None]) -> Callable[[slice], None]:
    """Wrap `work` for the threads of a pool: hold the thread's own numbers, if BLAS has one for each thread."""
    _, own = _libraries()
    if own is None:
        return work

    def holding(part: slice) -> None:
        with held([own.setting], blas_threads()):
            work(part)

    return holding


def blas_threads() -> int:
    """Return the number of threads of BLAS while a root is computed."""
    wanted = os.environ.get("MATROOT_BLAS_THREADS", "")
    return max(1, int(wanted)) if wanted.isdecimal() else 1


class _OfThisThread(threading.local):
    """The settings that each thread has for itself."""

    def __init__(self, functions: list[Functions]) -> None:
        self.setting = Setting(*_columns(functions), shared=False)


@cache
def _libraries() -> tuple[Setting, _OfThisThread | None]:
    """Return the settings of every BLAS in the process, after loading numpy's and scipy's."""
    deferred("scipy.linalg")
    controllers = deferred("threadpoolctl").ThreadpoolController().select(user_api="blas").lib_controllers
    shared: list[Functions] = []
    own: list[Functions] = []
    for library in controllers:
        layer = getattr(library, "threading_layer", "")
        kind = "openmp" if library.internal_api == "openblas" and layer == "openmp" else library.internal_api
        read, write = (_function(library.dynlib, name) for name in FUNCTIONS.get(kind, ("", "")))
        if read is not None and write is not None:
            (own if kind in OF_A_THREAD else shared).append((read(ctypes.c_int), write(None, ctypes.c_int)))
    return Setting(*_columns(shared)), _OfThisThread(own) if own else None


def _function(library: Any, name: str) -> Callable[..., Any] | None:
    """Look up a function of a library, to be called with its types. It keeps Python's lock, as `Setting` requires."""
    for prefix, suffix in product(("", "scipy_"), ("", "64_", "_64")):
        found = getattr(library, f"{prefix}{name}{suffix}", None) if name else None
        if found is not None:
            address = ctypes.cast(found, ctypes.c_void_p).value or 0
            return lambda *types: ctypes.PYFUNCTYPE(*types)(address)
    return None


def _columns(functions: list[Functions]) -> tuple[list[Any], list[Any]]:
    return [read for read, _ in functions], [write for _, write in functions]
