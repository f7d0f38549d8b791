# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
"""BLAS and LAPACK called from compiled loops, on parts of matrices and without copies.

numba's own products take whole arrays alone. Here the routines are called at the addresses that scipy publishes for
Cython. As in Fortran, matrices are stored by columns, and nothing tests a size. Those for complex matrices have the
arguments of the real ones; where a real routine transposes, they take the adjoint.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.types import int64

from matroot.backends.cpu.tridiagonal.stage import stage
from matroot.backends.loading import deferred

#: Where `routines` has the address of each.
GEMM, SYMM, SYR2K, TRMM, SYTRD = range(5)
NAMES = (("blas", "gemm"), ("blas", "symm"), ("blas", "syr2k"), ("blas", "trmm"), ("lapack", "sytrd"))
COMPLEX = (("blas", "gemm"), ("blas", "hemm"), ("blas", "her2k"), ("blas", "trmm"), ("lapack", "hetrd"))
NO, TRANSPOSED, ADJOINT, LOWER, UPPER, LEFT, RIGHT = (np.uint8(ord(letter)) for letter in "NTCLULR")


@cache
def routines(letter: str) -> np.ndarray:
    """Addresses of the routines: "s" for float32, "d" for float64, "c" and "z" for complex numbers made of these."""
    names = COMPLEX if letter in "cz" else NAMES
    places = [address_of(f"scipy.linalg.cython_{library}", letter + name) for library, name in names]
    return np.array(places, np.int64)


def address_of(module: str, name: str) -> int:
    """Return the address of a function that a module of scipy publishes for Cython."""
    capsule: Any = deferred(module).__pyx_capi__[name]
    name_of, pointer_of = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return int(pointer_of(capsule, name_of(capsule)))


@intrinsic
def call(typingctx, function, arguments):
    """Call the function at an address. An int64 is passed as the address that it is, everything else by reference."""

    def codegen(context, builder, sig, args):
        word = ir.IntType(64)
        passed = []
        for kind, value in zip(sig.args[1], cgutils.unpack_tuple(builder, args[1]), strict=True):
            if kind != types.int64:
                place = cgutils.alloca_once_value(builder, value)
                builder.store(value, place)
                value = builder.ptrtoint(place, word)
            passed.append(value)
        kind = ir.FunctionType(ir.VoidType(), [word] * len(passed))
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), passed)
        return context.get_dummy_value()

    return types.void(types.int64, arguments), codegen


@stage(int64)
def at(A, i, j):
    """Address of entry j of row i."""
    return np.int64(A.ctypes.data) + A.itemsize * (i * A.shape[1] + j)


@stage()
def gemm(blas, left, right, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc):
    """C = alpha op(A) op(B) + beta C, C m x n; A, B, C are addresses, alpha and beta of the precision of `blas`."""
    m, n, k, lda, ldb, ldc = np.int32(m), np.int32(n), np.int32(k), np.int32(lda), np.int32(ldb), np.int32(ldc)
    call(blas[GEMM], (left, right, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc))


@stage()
def symm(blas, triangle, m, n, alpha, A, lda, B, ldb, beta, C, ldc):
    """C = alpha A B + beta C for a Hermitian A (m x m) of which one triangle is read."""
    m, n, lda, ldb, ldc = np.int32(m), np.int32(n), np.int32(lda), np.int32(ldb), np.int32(ldc)
    call(blas[SYMM], (LEFT, triangle, m, n, alpha, A, lda, B, ldb, beta, C, ldc))


@stage()
def syr2k(blas, n, k, alpha, A, lda, B, ldb, beta, C, ldc):
    """C = alpha (A B^H + B A^H) + beta C on the lower triangle of C (n x n), alpha and beta real."""
    n, k, lda, ldb, ldc = np.int32(n), np.int32(k), np.int32(lda), np.int32(ldb), np.int32(ldc)
    call(blas[SYR2K], (LOWER, NO, n, k, alpha, A, lda, B, ldb, beta, C, ldc))


@stage()
def times_upper_adjoint(blas, m, n, alpha, A, lda, B, ldb):
    """B = alpha B A^H in place, A (n x n) upper triangular."""
    m, n, lda, ldb = np.int32(m), np.int32(n), np.int32(lda), np.int32(ldb)
    call(blas[TRMM], (RIGHT, UPPER, ADJOINT, NO, m, n, alpha, A, lda, B, ldb))


@stage()
def sytrd(blas, n, A, lda, d, e, tau, work):
    """Reduce the lower triangle of A to tridiagonal form; d, e, tau and work are arrays."""
    n, lda, length, info = np.int32(n), np.int32(lda), np.int32(work.size), np.int32(0)
    call(blas[SYTRD], (LOWER, n, A, lda, at_start(d), at_start(e), at_start(tau), at_start(work), length, info))


@stage(int64)
def at_start(x):
    """Address of a vector."""
    return np.int64(x.ctypes.data)
