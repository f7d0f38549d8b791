"""Roots through the tridiagonal form, small matrices eight at a time: the fast way on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache
from threading import local
from typing import Any, ClassVar

import numpy as np

from matroot._regularization import Coefficients
from matroot.backends.cpu.cpu import in_threads, threads
from matroot.backends.cpu.kernels import compiled, in_use
from matroot.backends.cpu.tridiagonal.pole_table import Level, table
from matroot.methods.base import Array, FloatArray, Method, Problem
from matroot.methods.conditioning import steps
from matroot.methods.tridiagonal_form import Reduced
from matroot.methods.tridiagonal_large import large_roots, reductions
from matroot.methods.tridiagonal_report import (
    LANES,
    NONE,
    CutReport,
    Report,
    lanes_are_faster,
    part_of,
    pole_level,
    probes,
    zero_share,
)

#: Seconds that a call may take on one thread; what is longer pays for waking the others.
LONG = 2e-4
#: Bytes of float64 copies of another dtype's matrices that a thread makes at a time.
COPIES = 1 << 20
#: The largest exponent: powers of numbers up to n, and from 1/2 on, stay far from both ends of the range of float64.
LARGEST_POWER = 16
#: Vectors of work space that a thread keeps at most, half a megabyte.
KEPT = 1 << 13
#: What a solve costs, in products: the reduction is 4/3 n^3 flops and the way back 2 n^3.
PRODUCTS = 2
#: Stands for tridiagonal forms that nobody keeps.
NO_FORMS = np.empty((0, 0))

_kept = local()


@dataclass(frozen=True, repr=False)
class Tridiagonal(Method):
    """A = Q T Q^H with T real tridiagonal; A^s = Q r(T) Q^H, r a sum of poles: no iteration, and no eigenvector.

    Exponents -1 <= s <= 16. On the CPU it is the fastest method here, in one of two ways, both in float64:

    - In lanes: eight matrices lie side by side in the vector registers, and a solve with its certificate takes about
      as long as four products at full speed. For a lone matrix of n up to 35, and for batches up to n = 224. Complex
      matrices are real ones of twice the size there, lone ones up to n = 3, and batches up to n = 64.
    - One matrix after the other, a third of the time of a decomposition from n = 256 on; complex ones, and all where
      BLAS has several threads, by LAPACK and BLAS. Between blocks of rows, r(T) is the product of two matrices with a
      column for every pole. It is never formed, and the reflectors are applied to both sides at once: 4/3 n^3
      operations, as many as the reduction. float32 matrices with an `rtol` of about 1e-4 or more are transformed back
      in float32; they are also reduced in float32 where their condition number permits it, as bounded by a ridge or,
      from n = 1536 on, by an estimate.

    `Shift` and `TargetCondition` use the extreme eigenvalues of T, which it computes anyway. Under `Floor` and
    `PseudoInverse` matrices without an eigenvalue below the cut are solved like others; the rest are decomposed: in
    lanes up to n = 128, by the QR iteration, else by divide and conquer, with the vectors of A above the cut alone.
    Singular matrices, for s > 0, are solved like others: x times a sum of poles is 0 at 0. T is moved up by what
    rounding has left below 0, if that is no more than sqrt(n) units of the input, 3 at least; else they are decomposed.

    For s > 1, A^s = A^k A^(s-k) with s - k in (0, 1]. In lanes these are powers of T, which cost little; one after
    the other they are products with A, and whole powers take no way back.

    r has 24 poles at cond 1e4 in float64, 12 for float32, 8 for an rtol of 1e-3 or more, and in float64 one more for
    every factor 1.7: near the best that there are, from a table, for s = -1/q, 1/q and +-(1 - 1/q), q up to 8. For
    other s it has some 14 more: the trapezoidal rule for x^(-alpha) = sin(pi alpha)/pi * integral of
    e^((1-alpha) t) / (e^t + x) dt, with Gauss rules for its two ends. The inverse of the shifted T is a product of
    ratios of pivots that are all positive, so that the poles lose nothing.
    The error is that of the tridiagonal form, up to ``5 eps cond |s|`` in lanes, else 9: below that of
    LAPACK's eigenvalues. The sum itself adds up to 7 eps, also where the root is a short number: that of I is not I
    exactly. Matrices with cond above 1e14 go to `Eigen`.

    Parameters
    ----------
    lanes : bool or None
        In lanes, or one after the other. None: what is faster for so many matrices of that size, so that a matrix of
        n > 35, and a complex one of n > 3, may have other last bits alone than in a batch.

    References
    ----------
    Higham, Functions of Matrices, SIAM 2008, sec. 7.5, for the integral; Hale, Higham & Trefethen, SIAM J. Numer. Anal.
    46 (2008), for the best poles at s = -1/2; Golub & Van Loan, Matrix Computations,
    4th ed., sec. 8.3.1, for the reduction; Meurant, SIAM J. Matrix Anal. Appl. 13 (1992), for the inverse; Schreiber &
    Van Loan, SIAM J. Sci. Stat. Comput. 10 (1989), for blocks of reflectors.
    """

    lanes: bool | None = None

    name: ClassVar[str] = "tridiagonal"
    # There is no `run`: `pipeline.kernel` leaves scaling, rule and certificate to the kernels too.

    def refuses(self, problem: Problem, n: int) -> str | None:
        s = problem.s
        served = isinstance(s, Fraction) and -1 <= s <= LARGEST_POWER and s != 0
        wrong = f"tridiagonal serves exponents -1 <= s <= {LARGEST_POWER}, not {s}; use method='eigen'"
        return super().refuses(problem, n) or (None if served else wrong)

    def in_lanes(self, A: Array) -> bool:
        """Return True if the stack A is solved in lanes."""
        if self.lanes is not None:
            return self.lanes
        return lanes_are_faster(len(A), A.shape[-1], A.dtype.kind == "c")


@cache
def kernel() -> Callable[..., None] | None:
    """Return the compiled loops of the lanes, or None if numba cannot compile."""
    module = compiled("matroot.backends.cpu.tridiagonal.kernel")
    return None if module is None else module.roots


def runs_here() -> bool:
    """Return True if this process uses its kernels, as far as that is known without compiling them."""
    return in_use() and (kernel.cache_info().currsize == 0 or kernel() is not None)


def roots(
    stack: Array,
    out: Array,
    s: Fraction,
    rule: Coefficients = NONE,
    *,
    lanes: bool,
    rtol: float | None = None,
    wide: bool = False,
    begun: Sequence[Reduced] | None = None,
    noise: float = 0.0,
    kept: FloatArray | None = None,
) -> Report | CutReport:
    """`small_roots` in lanes, else `large_roots`; without a compiler, nothing is served."""
    if lanes:
        return small_roots(stack, out, s, rule, rtol=rtol, noise=noise, kept=kept)
    if compiled("matroot.backends.cpu.large.kernel") is None:  # not the lanes' kernel, which takes as long to compile
        return Report(*np.zeros((len(Report._fields), len(stack))))
    return large_roots(stack, out, s, rule, rtol=rtol, wide=wide, begun=begun, noise=noise)


def first_half(
    stack: Array, s: Fraction, rule: Coefficients = NONE, kept: FloatArray | None = None
) -> list[Reduced] | None:
    """Return what `roots` takes as `begun`, for a stack not in lanes and without an rtol; None: no compiler.

    It lies in `kept`, of `tridiagonal_form.room_of`, if that is given.
    """
    return None if compiled("matroot.backends.cpu.large.kernel") is None else reductions(stack, s, rule, kept)


def small_roots(
    stack: Array,
    out: Array,
    s: Fraction,
    rule: Coefficients = NONE,
    *,
    rtol: float | None = None,
    noise: float = 0.0,
    kept: FloatArray | None = None,
) -> Report:
    """Compute A'^s for a stack of symmetric or Hermitian matrices, in float64; A' is A shifted by a rule.

    Parameters
    ----------
    stack : array (B, n, n)
    out : array (B, n, n)
        Filled in; single or double precision, complex if `stack` is. Of matrices not served, it holds nothing of use.
    s : Fraction
        -1 <= s <= LARGEST_POWER, not 0.
    rule : Coefficients
        Its `smallest` and `cuts` are not used together.
    rtol : float, optional
        Fewer poles are enough for it.
    noise : float
        For s > 0, and without a rule: the share of lambda_max up to which a negative eigenvalue is one of rounding.
    kept : array, optional
        (B, `tridiagonal_derivative.form_numbers`), for the tridiagonal forms of real matrices.

    Returns
    -------
    Report
        lambda_min is that of the matrix served, lambda_max that of the one given; asymmetry is relative to the
        largest entry, and the residual that of `out` (as `conditioning.residual` defines it, with probes for n > 8).
        A matrix is not served when it is not finite or not positive, its condition number is above 1e14, or its
        root overflows; and none is where there is no kernel. `served` is CUT where the rule may change eigenvalues.
    """
    B, n, _ = stack.shape
    roots = kernel()
    if roots is None:
        return Report(*np.zeros((len(Report._fields), B)))
    twofold = stack.dtype.kind == "c"
    single = out.dtype.char in "fF"
    V, poles, order, vectors = constants(s.numerator, s.denominator, n, twofold, pole_level(single, rtol))
    zero = zero_share(noise, n, s, rtol)
    report = np.empty((B, len(Report._fields)))

    def solve(A: FloatArray, X: FloatArray, part: slice) -> None:
        exponent, numbers = (s.numerator, s.denominator), rule[:4]
        forms = NO_FORMS if kept is None else kept[part]
        roots(A, X, report[part], *exponent, *numbers, zero, *poles, V, order, single, work_space(vectors), forms)

    by_groups(solve, stack, out, len(V))
    return Report._make(report.T)


def by_groups(solve: Callable[[FloatArray, FloatArray, slice], None], stack: Array, out: Array, n: int) -> None:
    """Call `solve` on parts of the stack as real float64 matrices of order n, and fill `out`; on several threads."""
    B = len(stack)
    flags = stack.flags
    ready = stack.dtype.char == out.dtype.char == "d" and flags.c_contiguous and flags.aligned
    twofold = stack.dtype.kind == "c"

    def work(part: slice) -> None:
        A, X = stack[part], out[part]
        if not ready:
            A = as_real(A) if twofold else np.array(A, np.float64, order="C")
            X = np.empty_like(A)
        solve(A, X, part)
        if not ready:
            out[part] = as_complex(X) if twofold else X

    cores = 1 if brief(B, n) else threads()
    slices = [slice(0, B)] if cores == 1 and ready else tasks(B, n, cores, not ready)
    if cores == 1:
        for part in slices:
            work(part)
    else:
        in_threads(work, slices)


@lru_cache(maxsize=256)
def constants(numerator: int, denominator: int, n: int, twofold: bool, level: Level) -> tuple[Any, Any, Any, int]:
    """Return what the kernel needs for an exponent and an order: probes, poles, steps of the certificate, work space.

    Poles as the kernel takes them; work space in vectors of eight numbers.
    """
    s = Fraction(numerator, denominator)
    V = probes(n, twofold)
    b, w, counts, edges, direct, singular = table(-s if s < 0 else 1 - part_of(s), level)
    n = len(V)
    vectors = 3 * (n * (n + 1) // 2) + 4 * n + 2 * b.shape[1] + 15 + 24 * n + 8
    return V, (b, w, np.concatenate([counts, edges, [singular]]), direct), np.array(steps(s), np.float64), vectors


def as_real(A: Array) -> FloatArray:
    """Return the real symmetric matrices [[R, -S], [S, R]] of twice the size, for A = R + i S."""
    B, n, _ = A.shape
    E = np.empty((B, 2 * n, 2 * n))
    E[:, :n, :n] = E[:, n:, n:] = A.real
    E[:, n:, :n] = A.imag
    E[:, :n, n:] = -A.imag
    return E


def as_complex(E: FloatArray) -> Array:
    """Undo `as_real`: take the mean of the two copies of each part, exact if they agree."""
    n = E.shape[-1] // 2
    A = np.empty((len(E), n, n), np.complex128)
    with np.errstate(invalid="ignore", over="ignore"):  # of matrices not served
        A.real = E[:, :n, :n] + 0.5 * (E[:, n:, n:] - E[:, :n, :n])
        one, other = E[:, n:, :n], E[:, :n, n:]
        # skew to the last bit; subnormal numbers lose theirs when they are halved
        A.imag = np.where(one == -other, one, 0.5 * one - 0.5 * other)
    return A


def room(vectors: int) -> FloatArray:
    """Work space of the kernel: vectors of eight numbers, none of which crosses a cache line."""
    space = np.empty(LANES * (vectors + 1))
    start = -(space.__array_interface__["data"][0] // 8) % LANES  # several times faster than space.ctypes
    return space[start : start + LANES * vectors]


def work_space(vectors: int) -> FloatArray:
    """Return `room` for a kernel that begins at once; this thread keeps a small one, which takes 10 us to make."""
    if vectors > KEPT:
        return room(vectors)
    kept: FloatArray | None = getattr(_kept, "space", None)
    if kept is None or len(kept) < LANES * vectors:
        kept = _kept.space = room(vectors)
    return kept


def brief(B: int, n: int) -> bool:
    """Return True if the work is too short for waking threads."""
    return -(-B // LANES) * (2e-6 + 5e-8 * n**2 + 4e-10 * n**3) < LONG


def tasks(B: int, n: int, cores: int, copied: bool) -> list[slice]:
    """Slices of the batch, of whole groups; one for all where waking threads is not worth it."""
    groups = -(-B // LANES)
    if cores == 1 or brief(B, n):
        size = groups
    else:
        size = -(-groups // (4 * cores)) if groups > 16 * cores else -(-groups // cores)
    if copied:
        size = min(size, max(1, COPIES // (LANES * 8 * n * n)))
    step = size * LANES
    return [slice(i, min(i + step, B)) for i in range(0, B, step)]
