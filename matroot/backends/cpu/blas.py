"""How many threads BLAS has while a root is computed: one, whatever the caller and other threads have set.

OpenBLAS splits a product by its number of threads, and the last bits of the result follow the split. The number is one
setting of the whole process, and a pool that solves a batch needs one thread. So every root is computed on one thread:
the bits do not depend on what runs beside it, and are the same inline, in a thread and in another process.
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

#: What reads and what sets the number of threads, by the name that threadpoolctl gives to a kind of library.
FUNCTIONS = {
    "openblas": ("openblas_get_num_threads", "openblas_set_num_threads"),
    "blis": ("bli_thread_get_num_threads", "bli_thread_set_num_threads"),
    "flexiblas": ("flexiblas_get_num_threads", "flexiblas_set_num_threads"),
    "mkl": ("MKL_Get_Max_Threads", "MKL_Set_Num_Threads_Local"),
    "openmp": ("omp_get_max_threads", "omp_set_num_threads"),
}
#: One that reads and one that sets.
Functions = tuple[Callable[[], Any], Callable[[Any], Any]]
#: Where every thread has a number of its own.
OF_A_THREAD = ("mkl", "openmp")


def one_blas_thread() -> AbstractContextManager[Any]:
    """BLAS at one thread while the block runs, put back after the last of nested or concurrent blocks.

    Every root is computed in such a block. It is public for those who compute roots in threads of their own, or need
    the bits of their own products not to depend on the roots beside them: the number of threads is one setting of the
    whole process, whichever thread asks. No signal handler that raises, such as Ctrl-C's, can skip the end of the
    block, and a forked child drops the blocks of threads that it has not.

    The environment variable ``MATROOT_BLAS_THREADS`` is the number of threads, if set. More than one can pay for lone
    matrices from n = 500 on, on idle cores; give all processes the same number for the same bits.

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
    return held([shared] if own is None else [shared, own.setting], _wanted())


def held_in_its_thread(work: Callable[[slice], None]) -> Callable[[slice], None]:
    """`work` for a thread of a pool, whose numbers are held where BLAS has some for each thread."""
    _, own = _libraries()
    if own is None:
        return work

    def holding(part: slice) -> None:
        with held([own.setting], _wanted()):
            work(part)

    return holding


def _wanted() -> int:
    wanted = os.environ.get("MATROOT_BLAS_THREADS", "")
    return max(1, int(wanted)) if wanted.isdecimal() else 1


class _OfThisThread(threading.local):
    """The numbers that each thread has for itself."""

    def __init__(self, functions: list[Functions]) -> None:
        self.setting = Setting(*_columns(functions), shared=False)


@cache
def _libraries() -> tuple[Setting, _OfThisThread | None]:
    """The settings of every BLAS in the process once numpy's and scipy's are there."""
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
    """A function of a library, to be given its types. It keeps Python's lock, as `Setting` asks."""
    for prefix, suffix in product(("", "scipy_"), ("", "64_", "_64")):
        found = getattr(library, f"{prefix}{name}{suffix}", None) if name else None
        if found is not None:
            address = ctypes.cast(found, ctypes.c_void_p).value or 0
            return lambda *types: ctypes.PYFUNCTYPE(*types)(address)
    return None


def _columns(functions: list[Functions]) -> tuple[list[Any], list[Any]]:
    return [read for read, _ in functions], [write for _, write in functions]
