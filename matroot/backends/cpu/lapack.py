"""LAPACK's routines that numpy and scipy do not offer as they are needed here.

Divide and conquer in single precision, called without Python's global lock: numpy computes eigenvectors in double
precision only, and scipy's wrappers of syevd and heevd hold the lock, so that a thread pool over a batch would not be
faster. Here the same routines are called in place, through the pointers that scipy publishes for Cython
(`scipy.linalg.cython_lapack`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from matroot.backends.loading import deferred

NDArray = np.ndarray


def eigh_single(A: NDArray) -> tuple[NDArray, NDArray]:
    """Compute ascending eigenvalues (B, n) and eigenvectors (B, n, n) of a float32 or complex64 A.

    The eigenvectors overwrite A. NaN where LAPACK fails.
    """
    A = np.ascontiguousarray(A)
    B, n, _ = A.shape
    is_complex = A.dtype.kind == "c"
    w = np.empty((B, n), np.float32)
    real_work = np.empty(1 + 6 * n + 2 * n * n, np.float32)
    complex_work = np.empty(2 * n + n * n if is_complex else 0, np.complex64)
    work = (complex_work, real_work) if is_complex else (real_work,)
    work = (*work, np.empty(3 + 5 * n, np.int32))
    sizes = np.array([n, 0, *(array.size for array in work)], np.int32)  # n, info, and the lengths of the work arrays
    at = [sizes[i:].ctypes.data for i in range(len(sizes))]
    lengths = [argument for array, size in zip(work, at[2:], strict=True) for argument in (array.ctypes.data, size)]
    driver = routine("cheevd" if is_complex else "ssyevd")
    for a, values in zip(A, w, strict=True):
        # LAPACK reads a C-ordered matrix as its conjugate, and writes the eigenvectors of the conjugate to the rows.
        driver(b"V", b"L", at[0], a.ctypes.data, at[0], values.ctypes.data, *lengths, at[1])
        if sizes[1] != 0:
            a[...], values[...] = np.nan, np.nan
    return w, (A.conj() if is_complex else A).swapaxes(-1, -2)


def schur_form(A: NDArray) -> tuple[NDArray, NDArray] | None:
    """Compute the real or complex Schur form R and Q of A = Q R Q^H (n, n), in Fortran's order; None if LAPACK fails.

    scipy's function of that name asks for the size of the work space every time, and takes 40 microseconds.
    """
    gees, work = _gees(A.dtype.char, len(A))
    found = gees(_all_alike, A, lwork=work, sort_t=0)
    return None if found[-1] != 0 else (found[0], found[-3])


@cache
def _gees(kind: str, n: int) -> tuple[Callable[..., Any], int]:
    a = np.zeros((n, n), kind)
    (gees,) = deferred("scipy.linalg.lapack").get_lapack_funcs(("gees",), (a,))
    return gees, int(gees(_all_alike, a, lwork=-1)[-2][0].real)


def _all_alike(*eigenvalue: Any) -> None:
    """Stand for the function that chooses eigenvalues to come first."""


@cache
def routine(name: str) -> Callable[..., None]:
    """Return a routine of scipy's LAPACK; ctypes releases the global lock while it runs."""
    capsule: Any = deferred("scipy.linalg.cython_lapack").__pyx_capi__[name]
    name_of, pointer_of = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    count = {"ssyevd": 11, "cheevd": 13}[name]
    arguments = [ctypes.c_char_p] * 2 + [ctypes.c_void_p] * (count - 2)
    return ctypes.CFUNCTYPE(None, *arguments)(pointer_of(capsule, name_of(capsule)))
