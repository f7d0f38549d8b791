"""The function `solve`: check the arguments, plan, run, and return a `RootResult`."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from matroot._regularization import PseudoInverse, Regularization, Ridge, as_regularization
from matroot._result import A, RootResult
from matroot._selection import Case, choose
from matroot.autodiff.graphs import between_graphs
from matroot.backends import backend_of
from matroot.backends.arrays import (
    ROUNDED,
    Origin,
    check_numbers,
    check_square,
    dtype_name,
    is_inexact,
    readable,
    take,
    transformed_by,
    unit_roundoff,
)
from matroot.backends.base import Backend
from matroot.backends.cpu.kernels import lapack_seconds, spend
from matroot.backends.holds import confined
from matroot.backends.keywords import is_int, is_number
from matroot.backends.loading import deferred
from matroot.backends.profile import Limits, limits
from matroot.methods.base import Array, Method, Problem
from matroot.methods.tridiagonal import runs_here
from matroot.pipeline.call import Job, Output
from matroot.pipeline.fused import Fused, whole
from matroot.pipeline.kernel import solve_fused, solve_kept
from matroot.pipeline.lone import alone
from matroot.pipeline.retries import solve_chunk

if TYPE_CHECKING:
    from matroot.autodiff.forms import Power

#: The options that the functions of a matrix share.
OPTIONS = ("method", "regularization", "assume_a", "rtol", "max_iter", "compute_dtype")

#: From this rtol on, float32 input is computed in float32 for speed.
FAST_RTOL = 1e-3
#: If a regularization bounds eps32 * kappa / p by this, at most 7 of float32's 24 bits are lost: float64 is not needed.
BOUNDED_FORWARD_ERROR = 2.0**-17

#: An exponent with a larger numerator or denominator is treated as a real number: it would take too many products.
LARGEST_INTEGER = 1024
#: A relative error eps of an eigenvalue gives eps |s| in its power: beyond this s, under two digits of float64 hold.
LARGEST_EXPONENT = 2.0**46


@between_graphs
def solve(
    a: A,
    /,
    p: int | None = None,
    *,
    s: int | Fraction | float | None = None,
    inverse: bool = True,
    method: str | Method = "auto",
    regularization: Regularization | float | None = None,
    assume_a: str = "pos",
    rtol: float | None = None,
    max_iter: int | None = None,
    compute_dtype: Any = None,
) -> RootResult[A]:
    """Compute the matrix p-th root or inverse p-th root, with a certificate of its quality.

    `inverse_pth_root` and `pth_root` call this function. A matrix without a root gets a status and NaN, and does not
    affect the rest of its batch; only wrong arguments raise.

    Parameters
    ----------
    a : array (..., n, n)
        numpy, cupy, torch, jax or another DLPack array; real symmetric or complex Hermitian under
        ``assume_a="pos"``, up to rounding: see `RootResult.asymmetry`. Never written to.
    p : int
        Degree of the root, positive.
    s : int, Fraction or float
        In place of p, any exponent: X = A^s. As in `fractional_power`.
    inverse : bool
        A^{-1/p} (the default) or A^{1/p}.
    method : str or Method
        ``"auto"``, a name, or a method object such as ``HigherOrder(order=3)``.
    regularization : float or Regularization, optional
        A float is ``Ridge(relative=that)``. Also `Ridge`, `Floor`, `Shift`, `PseudoInverse`, `TargetCondition`.
    assume_a : {"pos", "gen"}
        Symmetric (Hermitian) positive semidefinite, or general with a principal root.
    rtol : float, optional
        Relative accuracy wanted, ``||X - A^s||_2 <= rtol ||A^s||_2`` for the matrix as given; None is the accuracy
        that the dtype can hold. ``CONVERGED`` means that `rtol` is met. Where the arithmetic or the dtype of `a` is
        too coarse (float32 and ``rtol=1e-8``), the status is ``ILL_CONDITIONED``. From 1e-3 on, float32 input is
        computed in float32 where this is accurate enough, that is, where 4 eps cond / p is below rtol.
    max_iter : int, optional
        Most steps of an iteration; None: as many as the arithmetic may need.
    compute_dtype : dtype or str, optional
        ``"float32"`` or ``"float64"`` (or the complex counterparts). None: float64, unless float32 is enough for
        `rtol` or the regularization, or the input is float32 on a GPU with slow float64. The relative condition number
        of A -> A^{-1/p} is about kappa / p, so that float32 arithmetic would leave 4 bits of 24 at kappa = 1e6.
        On a GPU also ``"tf32"`` and ``"bfloat16"``: float32 matrices that are rounded to 11 or 8 bits when they are
        multiplied, on tensor cores. These need ``rtol >= 1e-3``, and the status is ``ILL_CONDITIONED`` where
        ``4 u kappa / p`` exceeds `rtol`, u = 2^-11 or 2^-8.

    Returns
    -------
    RootResult

    Raises
    ------
    TypeError, ValueError
        An argument is wrong, or a lone matrix on the CPU is not symmetric under ``assume_a="pos"``, which in a batch is
        a status; the message names the value and what is allowed.

    Notes
    -----
    Input in float32 or a half precision carries the rounding of its dtype, whatever the precision of the arithmetic.
    Let u be the unit roundoff of the input (6e-8, 5e-4 for float16, 4e-3 for bfloat16; 1e-16 for float64). Then

    - under "pos", negative eigenvalues within ``2 n u lambda_max`` of 0 count as 0 for positive exponents; asymmetry of
      the input, relative to its largest entry, adds n / 2 times itself to ``2 n u``;
    - an inverse root is ``SINGULAR``, and NaN, where the smallest eigenvalue is rounding of 0: within that distance if
      it is negative, and up to the largest of u, 3 machine epsilons of the arithmetic and sqrt(n) of float64's, times
      lambda_max, if it is positive. Rules other than a `Ridge` of at most n machine epsilons skip this test;
    - an inverse root is ``ILL_CONDITIONED`` where ``u cond / p`` is above 10^-1.5, so that fewer than two digits hold;
    - an inverse root is ``ILL_CONDITIONED`` for every p where the matrix may be singular: its smallest eigenvalue
      is below ``8 u lambda_max``, or below n machine epsilons of the arithmetic. This test is skipped if a
      regularization keeps the smallest eigenvalue above n machine epsilons of the arithmetic;
    - a power s between 0 and 1 is ``ILL_CONDITIONED`` where the smallest eigenvalue is below ``h lambda_max`` and h^s
      is above ``rtol / 4``, or above 1e-2 without an rtol: h is sqrt(n) machine epsilons of the arithmetic, 3 at least;
    - after a shift that leaves little of a negative matrix, u and the epsilons grow by ``||A|| / ||A'||``.

    `cond` is the condition number of the regularized matrix.

    Examples
    --------
    >>> import numpy as np
    >>> from matroot import solve
    >>> A = np.array([[2.0, 1.0], [1.0, 2.0]])
    >>> result = solve(A, 2)
    >>> np.allclose(result.x @ result.x @ A, np.eye(2))
    True
    >>> print(result.status, result.cond.round(12))
    0 3.0
    """
    if p is not None and s is not None:
        raise TypeError(f"give p, for a root, or s, for a power; got p={p!r} and s={s!r}")
    exponent = exponent_of(p, inverse) if s is None else as_exponent(s)
    return solve_power(a, exponent, **options_of(locals()))


def options_of(arguments: dict[str, Any], names: Sequence[str] = OPTIONS) -> dict[str, Any]:
    """Return the options among the arguments of a public function."""
    return {name: arguments[name] for name in names}


@confined
def solve_power(a: Array, s: Fraction | float, *, waits: bool = False, **options: Any) -> RootResult[Any]:
    """Compute X = A^s for any exponent, with the options of `solve`.

    `waits`: the caller reads the result on the host anyway, so matrices that fail in float32 may be retried in float64.
    """
    library = transformed_by(a)
    if library is not None:
        return _transformed(a, library, s, waits, options)
    return _solve(a, s, waits=waits, **options)


def _solve(
    a: Array, s: Fraction | float, *, waits: bool, kept: list[Array] | None = None, **options: Any
) -> RootResult[Any]:
    """Do `solve_power` for an array with values; add to `kept` what the derivative needs not compute again, if any."""
    values, origin = take(a)
    job, fused = planned(values, origin, s, **options)
    if job.backend.sync_free():
        on_device = deferred("matroot.pipeline.device")  # with cupy's calls and kernels
        return on_device.solve_stack(values, replace(job, may_widen=job.may_widen and waits))
    batch, n = values.shape[:-2], values.shape[-1]
    one = alone(fused, values, origin) if kept is None else None
    if one is not None and (found := one.solve(values.reshape(n, n), origin, batch)) is not None:
        return found
    stack = values.reshape(math.prod(batch), n, n)
    out = Output.room(len(stack), n, job)
    if stack.size and fused is not None and kept is not None:
        form = solve_kept(stack, fused, out)
        if form is not None:
            kept.append(form.reshape(*batch, *form.shape[1:]))
    elif stack.size and fused is not None:
        solve_fused(stack, fused, out)
    elif stack.size:
        job.backend.run_chunks(lambda part: solve_chunk(stack[part], part, job, out), len(stack), n, job.dtype.itemsize)
    return out.result(batch, job)


def _transformed(a: Array, library: str, s: Fraction | float, waits: bool, options: dict[str, Any]) -> RootResult[Any]:
    """Solve for an array that torch differentiates or jax traces."""
    job, compute, power = parts(a, s, waits, options)
    module = deferred("matroot.autodiff.torch") if library == "torch" else deferred("matroot.autodiff.jax")
    if library == "jax" and a.size and deferred("matroot.autodiff.jax_native").serves(job, options):
        module = deferred("matroot.autodiff.jax_native")
    return module.solve(a, power, compute, job)


def parts(
    a: Array, s: Fraction | float, waits: bool, options: dict[str, Any]
) -> tuple[Job, Callable[[Array], RootResult[Any]], Power]:
    """Return the job of a solve without its values, the solve as a function of the array, and its derivative."""
    try:
        job = _planned_shape(tuple(a.shape), a.dtype, s, limits(), runs_here(), **options)
    except TypeError:  # an option is not hashable; `plan` raises if it is wrong
        job = _planned_shape.__wrapped__(tuple(a.shape), a.dtype, s, limits(), runs_here(), **options)
    compute = partial(_solve, s=s, waits=waits, **options)
    forms = deferred("matroot.autodiff.forms")
    return job, compute, forms.Power(job.problem.s, job.rule, job.problem.assume_a, job.origin.dtype_name)


@lru_cache(maxsize=256, typed=True)
def _planned_shape(
    shape: tuple[int, ...], dtype: Any, s: Fraction | float, tuned: Limits, compiled: bool, **options: Any
) -> Job:
    values = np.broadcast_to(np.empty((), readable(dtype_name(dtype))), shape)  # only the shape and dtype are used
    return plan(values, Origin("numpy", dtype, None), s, **options)


def planned(values: Array, origin: Origin, s: Fraction | float, **options: Any) -> tuple[Job, Fused | None]:
    """Plan a solve, with its `Fused` if the kernel can do the entire solve; cache the plan on the CPU."""
    if not isinstance(values, np.ndarray):
        return plan(values, origin, s, **options), None
    if origin.library == "dlpack":  # its origin holds the array, which no cache may
        return whole(plan(values, origin, s, **options), values.shape[-1])
    compiled = runs_here()
    try:
        found = _planned(values.shape, values.dtype, origin, s, limits(), compiled, **options)
        if not compiled and (options.get("method", "auto"), options.get("assume_a", "pos")) == ("auto", "pos"):
            spend(lapack_seconds(math.prod(values.shape[:-2]), values.shape[-1]))
        return found
    except TypeError:  # an option is not hashable; `plan` raises if it is wrong
        return whole(plan(values, origin, s, **options), values.shape[-1])


@lru_cache(maxsize=256, typed=True)  # equal options may have different types, only some of which are allowed
def _planned(
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    origin: Origin,
    s: Fraction | float,
    tuned: Limits,
    compiled: bool,
    **options: Any,
) -> tuple[Job, Fused | None]:
    values = np.broadcast_to(np.empty((), dtype), shape)  # only the shape and dtype are used
    return whole(plan(values, origin, s, **options), shape[-1])


def plan(
    values: Array,
    origin: Origin,
    s: Fraction | float,
    *,
    method: str | Method = "auto",
    regularization: Any = None,
    assume_a: str = "pos",
    rtol: float | None = None,
    max_iter: int | None = None,
    compute_dtype: Any = None,
) -> Job:
    """Check the arguments and choose method and precision, without reading the values of the array."""
    shape = tuple(values.shape)
    check_square(shape)
    check_numbers(values.dtype, origin)
    if assume_a not in ("pos", "gen"):
        raise ValueError(
            f"assume_a must be 'pos' or 'gen', got {assume_a!r}; 'pos' is for symmetric and Hermitian positive "
            "semidefinite matrices, 'gen' for all others"
        )
    check_accuracy(rtol, max_iter)
    rule = as_regularization(regularization)
    n = shape[-1]
    if isinstance(rule, PseudoInverse) and rule.rtol is None:
        name = origin.dtype_name if is_inexact(origin.dtype_name) else "float64"
        rule = replace(rule, rtol=2 * n * unit_roundoff(name))
    if rule is not None and assume_a == "gen" and not isinstance(rule, Ridge):
        raise ValueError(f"{type(rule).__name__} needs real eigenvalues; under assume_a='gen' use Ridge")
    if not -LARGEST_EXPONENT <= s <= LARGEST_EXPONENT:
        size = abs(int(s)).bit_length()
        raise ValueError(f"s must be at most 2^46 in size, got 2^{size} or so: under two digits of such a power hold")
    if isinstance(s, Fraction) and max(abs(s.numerator), s.denominator) > LARGEST_INTEGER:
        s = float(s)
    backend = backend_of(values)
    rounding = None if compute_dtype is None else dtype_name(compute_dtype)
    if rounding in ROUNDED:
        if not backend.sync_free():
            raise ValueError(f"compute_dtype={rounding!r} is for arrays on a CUDA device; on the CPU use 'float32'")
        if rtol is None or rtol < FAST_RTOL:
            raise ValueError(f"compute_dtype={rounding!r} rounds products and needs rtol >= {FAST_RTOL}, got {rtol!r}")
        backend, compute_dtype = backend.rounded(rounding), "float32"
    problem = Problem(s=s, rtol=rtol, max_iter=max_iter, assume_a=assume_a)
    dtype = working_dtype(values.dtype, s, rule, rtol, compute_dtype, backend)
    single = compute_dtype is not None and dtype.name in ("float32", "complex64")
    case = Case(problem, rule, n, backend, math.prod(shape[:-2]), values.dtype.kind == "c", single)
    chosen = choose(method, case)
    may_widen = compute_dtype is None and dtype.name in ("float32", "complex64")
    may_widen = may_widen and (rtol is not None or backend.sync_free())
    return Job(problem, chosen, rule, dtype, origin, backend, may_widen, len(shape) == 2, compute_dtype is not None)


def check_accuracy(rtol: Any, max_iter: Any) -> None:
    """Raise if `rtol` is no share, or `max_iter` no positive int."""
    if rtol is not None and not (isinstance(rtol, int | float | np.floating) and 0 < rtol < 1):
        raise ValueError(f"rtol must be None or a number in (0, 1), got {rtol!r}")
    if max_iter is not None and not (is_int(max_iter) and max_iter >= 1):
        raise ValueError(f"max_iter must be None or an int >= 1, got {max_iter!r}")


def as_exponent(s: Any) -> Fraction | float:
    """Convert `s` to a Fraction if it is a ratio with a small denominator, else to a float."""
    if not (isinstance(s, Fraction) or is_number(s)):
        raise TypeError(f"s must be an int, a Fraction or a float, got {s!r}")
    if isinstance(s, int | Fraction | np.integer):
        return s if isinstance(s, Fraction) else Fraction(int(s))
    if not np.isfinite(s):
        raise ValueError(f"s must be finite, got {s!r}")
    near = Fraction(float(s)).limit_denominator(LARGEST_INTEGER)
    return near if float(near) == float(s) else float(s)


def exponent_of(p: Any, inverse: Any) -> Fraction:
    """Return -1/p, or 1/p; raise if p is not a positive integer or `inverse` is not a bool."""
    if not isinstance(inverse, bool | np.bool_):
        raise TypeError(f"inverse must be True or False, got {inverse!r}")
    return _unit_fraction(-1 if inverse else 1, check_degree(p))


@lru_cache(maxsize=256)
def _unit_fraction(numerator: int, denominator: int) -> Fraction:
    return Fraction(numerator, denominator)


def check_degree(p: Any) -> int:
    """Return `p` as an int; raise if it is not a positive integer, or is a bool."""
    if p is None:
        raise TypeError("p must be a positive int, got None; give the degree of the root, 2 for a square root")
    try:
        no_number: Any = None  # True and False count things, but are no degrees
        degree = operator.index(no_number if isinstance(p, bool | np.bool_) else p)
    except TypeError:
        found, advice = repr(p), "for other exponents use fractional_power(a, s)"
        if type(p).__name__.endswith("Tracer"):
            advice = "jax.jit takes it by static_argnums=1"
        elif getattr(p, "ndim", 0):
            found, advice = "an array", "the degree follows the matrix, and vectors follow the degree"
        raise TypeError(f"p must be a positive int, got {found}; {advice}") from None
    if degree < 1:
        raise ValueError(f"p must be a positive int, got {degree}; inverse_pth_root gives the negative exponent")
    return degree


def working_dtype(
    given: np.dtype[Any],
    s: Fraction | float,
    rule: Regularization | None,
    rtol: float | None,
    wanted: Any,
    backend: Backend,
) -> np.dtype[Any]:
    """Return the dtype to compute in; see `solve`."""
    is_complex = given.kind == "c"
    if wanted is not None:
        try:
            name = np.dtype(wanted).name
        except TypeError:  # another library's dtype
            name = dtype_name(wanted)
        if name not in ("float32", "float64", "complex64", "complex128"):
            raise ValueError(f"compute_dtype must be 'float32' or 'float64', got {wanted!r}")
        single = name in ("float32", "complex64")
    else:
        narrow = given.kind in "fc" and given.itemsize <= (8 if is_complex else 4)
        floor = rule.floor() if rule is not None else 0.0
        bounded = floor > 0 and 2.0**-24 * abs(float(s)) / floor <= BOUNDED_FORWARD_ERROR
        slow = backend.sync_free() and not backend.fast_float64
        single = narrow and ((rtol is not None and rtol >= FAST_RTOL) or bounded or slow)
    return np.dtype(("complex64" if single else "complex128") if is_complex else "float32" if single else "float64")
