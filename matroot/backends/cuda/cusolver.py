"""Eigendecompositions of whole stacks by cuSOLVER's ``XsyevBatched`` (CUDA 12.6 on), which cupy does not call."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import c_int, c_int64, c_size_t, c_void_p
from functools import cache
from typing import Any

import numpy as np

from matroot.backends.cuda.cublas import TYPES
from matroot.backends.cuda.libraries import caller

Array = Any

_sizes = ctypes.POINTER(c_size_t)
#: Handle, parameters, job, triangle; n; type, address and leading dimension of A; type and address of W; arithmetic.
_problem = (c_void_p, c_void_p, c_int, c_int, c_int64, c_int, c_void_p, c_int64, c_int, c_void_p, c_int)
SIGNATURES = {
    "cusolverDnSetStream": (c_void_p, c_void_p),
    "cusolverDnXsyevBatched_bufferSize": (*_problem, _sizes, _sizes, c_int64),
    "cusolverDnXsyevBatched": (*_problem, c_void_p, c_size_t, c_void_p, c_size_t, c_void_p, c_int64),
}
#: Maximum number of elements of one call.
MOST = (1 << 31) - 1
LOWER = 0


def eigh(A: Array, xp: Any) -> tuple[Array, Array]:
    """Compute ascending eigenvalues (B, n) and eigenvectors (B, n, n) of Hermitian matrices; NaN if cuSOLVER fails.

    AttributeError if this cuSOLVER has no such function.
    """
    w, E, failed = _decomposed(A, True, xp)
    # cuSOLVER read A as its conjugate, and wrote the eigenvectors to the rows.
    Q = xp.ascontiguousarray(E.swapaxes(-1, -2).conj())
    Q[...] = xp.where(failed[:, None, None], xp.nan, Q)
    return w, Q


def eigvalsh(A: Array, xp: Any) -> Array:
    """Compute ascending eigenvalues (B, n) of Hermitian matrices; errors as in `eigh`."""
    return _decomposed(A, False, xp)[0]


def _decomposed(A: Array, vectors: bool, xp: Any) -> tuple[Array, Array, Array]:
    B, n, _ = A.shape
    E = A.copy(order="C")
    w, info = xp.empty((B, n), A.real.dtype), xp.zeros(B, xp.int32)
    size = MOST // (n * n)
    for first in range(0, B, size):
        part = slice(first, min(first + size, B))
        _solve(E[part], w[part], info[part], vectors, xp)
    failed = info != 0
    w[...] = xp.where(failed[:, None], xp.nan, w)
    return w, E, failed


def _solve(E: Array, w: Array, info: Array, vectors: bool, xp: Any) -> None:
    call, B, n = _library(xp), len(E), E.shape[-1]
    handle, stream = xp.cuda.device.get_cusolver_handle(), xp.cuda.get_current_stream()
    kind, real = TYPES[E.dtype.name][0], TYPES[w.dtype.name][0]
    device, host = c_size_t(), c_size_t()
    parameters = xp.cuda.cusolver.createParams()
    problem = (handle, parameters, int(vectors), LOWER, n, kind, E.data.ptr, n, real, w.data.ptr, kind)
    try:
        call("cusolverDnSetStream", handle, stream.ptr)
        call("cusolverDnXsyevBatched_bufferSize", *problem, ctypes.byref(device), ctypes.byref(host), B)
        on_device, on_host = xp.empty(device.value, xp.int8), np.empty(host.value, np.int8)
        space = (on_device.data.ptr, device.value, on_host.ctypes.data, host.value)
        call("cusolverDnXsyevBatched", *problem, *space, info.data.ptr, B)
    finally:
        xp.cuda.cusolver.destroyParams(parameters)


@cache
def _library(cupy: Any) -> Callable[..., None]:
    return caller(cupy.cuda.cusolver, SIGNATURES)
