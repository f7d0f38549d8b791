"""Blocked arithmetic of upper (quasi-)triangular matrices, as in LAPACK's Schur form.

A real Schur form has 1 x 1 blocks and standardized 2 x 2 blocks [[a, b], [c, a]], b c < 0, on its diagonal.
Matrices are Fortran-ordered, so that columns are contiguous. Most work is done by GEMM; the diagonal blocks are
handled by the loops of `triangular_numba`, imported on first use.

Square roots: Bjorck & Hammarling, Linear Algebra Appl. 52/53, 1983, 127-140; the real one is Higham, Linear
Algebra Appl. 88/89, 1987, 405-430; blocking after Deadman, Higham & Ralha, PARA 2012, LNCS 7782.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from types import FunctionType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from matroot.backends.cpu.kernels import in_use, spend
from matroot.backends.cpu.triangular_norms import start
from matroot.backends.loading import deferred

Matrix = NDArray[Any]

WIDTH = 48  # of a block, so that the three operands stay in the first-level cache


#: The module of the loops, compiled on first use.
LOOPS = "matroot.backends.cpu.triangular_numba"
#: Up to this n, Python runs the loops of a root in half a second, where compiling them takes ten times as long.
INTERPRETED = 128
#: About how long they take then, divided by n^3.
SECONDS = 2.4e-7


def loops_for(n: int) -> Any:
    """Return the loops for matrices of order n: compiled, or Python's if this process uses no kernels."""
    if n > INTERPRETED or in_use():
        return deferred(LOOPS)
    spend(SECONDS * n**3)
    return interpreted()


@cache
def interpreted() -> Any:
    """Return the loops as Python runs them."""
    names = dict(vars(deferred(LOOPS)))
    for name, function in list(names.items()):
        if hasattr(function, "py_func"):
            names[name] = FunctionType(function.py_func.__code__, names)
    return SimpleNamespace(**names)


def cuts(R: Matrix, width: int = WIDTH) -> list[int]:
    """Return boundaries 0 = c_0 < ... < c_m = n of diagonal blocks about `width` wide that split no 2 x 2 block."""
    n = R.shape[0]
    inner = (c + int(R[c, c - 1] != 0) for c in range(width, n, width))
    return [0, *(c for c in inner if c < n), n]


class Pairs(NamedTuple):
    """The 2 x 2 diagonal blocks: first index, upper and lower off-diagonal element; none in a complex matrix."""

    first: NDArray[np.intp]
    b: Matrix
    c: Matrix


def pairs(R: Matrix) -> Pairs:
    """Return a copy of the 2 x 2 diagonal blocks of R."""
    i = R.diagonal(-1).nonzero()[0]
    return Pairs(i, R[i, i + 1], R[i + 1, i]) if len(i) else Pairs(i, R[:0, 0], R[:0, 0])


def eigenvalues(R: Matrix, blocks: Pairs | None = None) -> Matrix:
    """Return the eigenvalues in the order of the diagonal; a 2 x 2 block, of `blocks`, gives a + i mu, a - i mu."""
    lam = R.diagonal().astype(np.result_type(R.dtype, np.complex64))
    i, b, c = pairs(R) if blocks is None else blocks
    if len(i):
        mu = np.sqrt(np.abs(b)) * np.sqrt(np.abs(c))
        lam.imag[i] += mu
        lam.imag[i + 1] -= mu
    return lam


def set_diagonal_blocks(F: Matrix, blocks: Pairs, lam: Matrix, f_lam: Matrix) -> None:
    """Write f(R_ii) into the diagonal blocks of F, given the pairs and eigenvalues of R, and f of the latter.

    A 2 x 2 block a I + N with eigenvalues a +- i mu has f = Re f(a + i mu) I + (Im f(a + i mu) / mu) N.
    """
    np.einsum("ii->i", F)[...] = f_lam if F.dtype.kind == "c" else f_lam.real
    i, b, c = blocks
    if len(i):
        ratio = f_lam.imag[i] / lam.imag[i]
        F[i, i + 1], F[i + 1, i] = b * ratio, c * ratio


def sqrt_triangular(R: Matrix, blocks: list[int]) -> None:
    """Overwrite R by its principal square root U.

    Column by column, upwards: U_ii U_ij + U_ij U_jj = R_ij - sum_{i<k<j} U_ik U_kj.
    """
    loops = loops_for(R.shape[0])
    given = pairs(R)
    lam = eigenvalues(R, given)
    set_diagonal_blocks(R, given, lam, np.sqrt(lam))
    mu = loops.frequencies(R)
    spans = list(pairwise(blocks))
    for J, (j0, j1) in enumerate(spans):
        loops.sqrt_block(R, mu, j0, j1)
        for i0, i1 in reversed(spans[:J]):
            if i1 < j0:
                R[i0:i1, j0:j1] -= R[i0:i1, i1:j0] @ R[i1:j0, j0:j1]
            loops.sylvester_block(R, mu, R, i0, i1, j0, j1)


def sylvester(U: Matrix, C: Matrix, blocks: list[int]) -> None:
    """Overwrite the full matrix C by the solution X of U X + X U = C, U upper (quasi-)triangular."""
    loops = loops_for(U.shape[0])
    mu = loops.frequencies(U)
    spans = list(pairwise(blocks))
    for j0, j1 in spans:
        if j0:
            C[:, j0:j1] -= C[:, :j0] @ U[:j0, j0:j1]
        for i0, i1 in reversed(spans):
            if i1 < blocks[-1]:
                C[i0:i1, j0:j1] -= U[i0:i1, i1:] @ C[i1:, j0:j1]
            loops.sylvester_block(U, mu, C, i0, i1, j0, j1)


def inverse_norms(R: Matrix, t: NDArray[np.float64], steps: int = 3) -> NDArray[np.float64]:
    """Estimate the 2-norm of (R + t_k I)^{-1} for every t_k from below, by a few power steps."""
    loops = loops_for(R.shape[0])
    R = np.asfortranarray(R, np.result_type(R.dtype, np.float64))
    return np.asarray(loops.inverse_norms(R, loops.frequencies(R), t, start(R.shape[0], np.float64), steps))


def multiply(A: Matrix, B: Matrix, blocks: list[int], out: Matrix | None = None) -> Matrix:
    """Multiply upper (quasi-)triangular A and B at a third of a full product; `out` may be A, B or both.

    Rows are computed downwards and columns backwards, so that no block is overwritten before its last use.
    """
    if out is None:
        out = np.zeros_like(A)
    spans = list(pairwise(blocks))
    for first, (i0, i1) in enumerate(spans):
        for j0, j1 in reversed(spans[first:]):
            out[i0:i1, j0:j1] = A[i0:i1, i0:j1] @ B[i0:j1, j0:j1]
    return out


def add_multiple(A: Matrix, c: float, B: Matrix, blocks: list[int]) -> None:
    """Add c B to A for upper (quasi-)triangular matrices, a block column at a time to save memory."""
    for j0, j1 in pairwise(blocks):
        A[:j1, j0:j1] += c * B[:j1, j0:j1]


def solve(A: Matrix, B: Matrix, blocks: list[int]) -> None:
    """Overwrite B by A^{-1} B, both upper (quasi-)triangular, by block back substitution."""
    for i0, i1 in reversed(list(pairwise(blocks))):
        if i1 < blocks[-1]:
            B[i0:i1, i1:] -= A[i0:i1, i1:] @ B[i1:, i1:]
        B[i0:i1, i0:] = np.linalg.solve(A[i0:i1, i0:i1], B[i0:i1, i0:])


def left(T: Matrix, E: Matrix, blocks: list[int]) -> Matrix:
    """Compute T E with T upper (quasi-)triangular and E full, at half of a full product."""
    out = np.empty_like(E)
    for i0, i1 in pairwise(blocks):
        out[i0:i1] = T[i0:i1, i0:] @ E[i0:]
    return out


def right(E: Matrix, T: Matrix, blocks: list[int]) -> Matrix:
    """Compute E T with T upper (quasi-)triangular and E full, at half of a full product."""
    out = np.empty_like(E)
    for j0, j1 in pairwise(blocks):
        out[:, j0:j1] = E[:, :j1] @ T[:j1, j0:j1]
    return out


def transform(Q: Matrix, X: Matrix, blocks: list[int]) -> Matrix:
    """Compute Q X Q^H with X upper (quasi-)triangular."""
    return np.asarray(right(Q, X, blocks) @ Q.conj().T)
