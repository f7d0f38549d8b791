"""The public functions, each a short wrapper of `solve`."""

from __future__ import annotations

import inspect
import math
import warnings
from fractions import Fraction
from typing import Any

import numpy as np

from matroot._bars import smallest_share
from matroot._regularization import Regularization
from matroot._result import A, RootResult, on_host
from matroot._solve import as_exponent, check_degree, exponent_of, options_of, parts, plan, solve_power
from matroot._status import USABLE, ConditionWarning, RootError, Status, place
from matroot.autodiff.graphs import as_operator
from matroot.backends import backend_of
from matroot.backends.arrays import Origin, has_values, is_inexact, take, unit_roundoff, with_nan
from matroot.backends.base import Backend
from matroot.backends.holds import confined
from matroot.methods import conditioning
from matroot.methods.base import Array, Method
from matroot.pipeline.scaling import asymmetry_bar, symmetrized


def _described(name: str, *args: Any, **options: Any) -> tuple[str, Any]:
    """Return a key for a call of a public function, and its parts as a function of the tensor."""
    (degree,) = [2] if name.endswith("sqrtm") else args or [options.pop("p" if "p" in options else "s")]
    options.pop("on_bad", None)  # nothing is raised inside of a graph
    s = as_exponent(degree) if name == "fractional_power" else exponent_of(degree, name.startswith("inv"))
    return f"{name}({degree}, {options})", lambda a: parts(a, s, True, options)[1:]


@as_operator(_described)
def inverse_pth_root(
    a: A,
    /,
    p: int,
    *,
    method: str | Method = "auto",
    regularization: Regularization | float | None = None,
    assume_a: str = "pos",
    rtol: float | None = None,
    max_iter: int | None = None,
    compute_dtype: Any = None,
    on_bad: str = "raise",
) -> A:
    """Compute the inverse matrix p-th root A^{-1/p}, the X with X^p A = I.

    For a symmetric positive definite A, X is symmetric positive definite. Under ``assume_a="gen"`` X is the
    principal root, whose eigenvalues have arguments within pi/p. A singular matrix has no inverse root: regularize it.

    Parameters
    ----------
    a : array (..., n, n)
        numpy, cupy, torch, jax or another DLPack array. Not written to.
    p : int
        Positive.
    method, regularization, assume_a, rtol, max_iter, compute_dtype
        As in `solve`.
    on_bad : {"raise", "nan"}
        ``"nan"``: a matrix without a root gives NaN, and no error.

    Returns
    -------
    array (..., n, n)
        Of the kind, dtype and device of `a` (float64 for integers).

    Raises
    ------
    RootError
        A matrix has no such root, or the method failed; the message has the count, the first index, and the reason.

    Warns
    -----
    ConditionWarning
        A root was computed, but fewer than two digits are certain.

    See Also
    --------
    solve : the same, with status, certified residual and condition number.

    References
    ----------
    Higham, Functions of Matrices, SIAM 2008, ch. 7.

    Examples
    --------
    >>> import numpy as np
    >>> from matroot import inverse_pth_root
    >>> A = np.array([[5.0, 4.0], [4.0, 5.0]])
    >>> X = inverse_pth_root(A, 4)
    >>> np.allclose(X @ X @ X @ X @ A, np.eye(2))
    True
    """
    result: RootResult[A] = solve_power(a, exponent_of(p, inverse=True), waits=True, **options_of(locals()))
    return answer(result, on_bad)


@as_operator(_described)
def pth_root(
    a: A,
    /,
    p: int,
    *,
    method: str | Method = "auto",
    regularization: Regularization | float | None = None,
    assume_a: str = "pos",
    rtol: float | None = None,
    max_iter: int | None = None,
    compute_dtype: Any = None,
    on_bad: str = "raise",
) -> A:
    """Compute the matrix p-th root A^{1/p}, the principal X with X^p = A.

    X exists for every symmetric positive semidefinite A; slightly negative eigenvalues due to rounding count as 0.
    Under ``assume_a="gen"`` A must have no eigenvalue on the closed negative real axis, except a 0 without a Jordan
    block; ``solve(...).rank`` says how many eigenvalues were not taken for 0.

    Parameters, returns, errors and warnings are those of `inverse_pth_root`.

    Parameters
    ----------
    a : array (..., n, n)
    p : int
        Positive.
    method, regularization, assume_a, rtol, max_iter, compute_dtype
        As in `solve`.
    on_bad : {"raise", "nan"}
        As in `inverse_pth_root`.

    Returns
    -------
    array (..., n, n)

    Examples
    --------
    >>> import numpy as np
    >>> from matroot import pth_root
    >>> P = np.array([[0.9, 0.1], [0.2, 0.8]])           # a year's transition probabilities
    >>> month = pth_root(P, 12, assume_a="gen")
    >>> np.allclose(np.linalg.matrix_power(month, 12), P)
    True
    """
    result: RootResult[A] = solve_power(a, exponent_of(p, inverse=False), waits=True, **options_of(locals()))
    return answer(result, on_bad)


@as_operator(_described)
def fractional_power(
    a: A,
    /,
    s: int | Fraction | float,
    *,
    method: str | Method = "auto",
    regularization: Regularization | float | None = None,
    assume_a: str = "pos",
    rtol: float | None = None,
    max_iter: int | None = None,
    compute_dtype: Any = None,
    on_bad: str = "raise",
) -> A:
    """Compute the matrix power A^s for real s.

    Parameters
    ----------
    a : array (..., n, n)
    s : int, Fraction or float
        A float that is a ratio of integers with a denominator up to 1024 (0.3, -0.75) is converted to that ratio. Any
        other float needs the eigendecomposition, and is a ValueError under ``assume_a="gen"``. At most 2^46 in size:
        float64 holds fewer than two digits of higher powers.
    method, regularization, assume_a, rtol, max_iter, compute_dtype
        As in `solve`.
    on_bad : {"raise", "nan"}
        As in `inverse_pth_root`.

    Returns
    -------
    array (..., n, n)

    Raises
    ------
    RootError, ConditionWarning
        As `inverse_pth_root`.

    Examples
    --------
    >>> import numpy as np
    >>> from fractions import Fraction
    >>> from matroot import fractional_power
    >>> A = np.diag([1.0, 16.0])
    >>> print(fractional_power(A, Fraction(-3, 4)).round(12))
    [[1.    0.   ]
     [0.    0.125]]
    """
    result: RootResult[A] = solve_power(a, as_exponent(s), waits=True, **options_of(locals()))
    return answer(result, on_bad)


@as_operator(_described)
def sqrtm(
    a: A,
    /,
    *,
    method: str | Method = "auto",
    regularization: Regularization | float | None = None,
    assume_a: str = "pos",
    rtol: float | None = None,
    max_iter: int | None = None,
    compute_dtype: Any = None,
    on_bad: str = "raise",
) -> A:
    """Compute the principal square root, ``pth_root(a, 2)``.

    Parameters
    ----------
    a : array (..., n, n)
    method, regularization, assume_a, rtol, max_iter, compute_dtype, on_bad
        As in `pth_root`.

    Returns
    -------
    array (..., n, n)

    Examples
    --------
    >>> import numpy as np
    >>> from matroot import sqrtm
    >>> print(sqrtm(np.array([[5.0, 4.0], [4.0, 5.0]])).round(12))
    [[2. 1.]
     [1. 2.]]
    """
    result: RootResult[A] = solve_power(a, exponent_of(2, inverse=False), waits=True, **options_of(locals()))
    return answer(result, on_bad)


@as_operator(_described)
def inv_sqrtm(
    a: A,
    /,
    *,
    method: str | Method = "auto",
    regularization: Regularization | float | None = None,
    assume_a: str = "pos",
    rtol: float | None = None,
    max_iter: int | None = None,
    compute_dtype: Any = None,
    on_bad: str = "raise",
) -> A:
    """Compute the inverse principal square root, ``inverse_pth_root(a, 2)``.

    Parameters
    ----------
    a : array (..., n, n)
    method, regularization, assume_a, rtol, max_iter, compute_dtype, on_bad
        As in `inverse_pth_root`.

    Returns
    -------
    array (..., n, n)

    Examples
    --------
    >>> import numpy as np
    >>> from matroot import inv_sqrtm
    >>> W = inv_sqrtm(np.array([[5.0, 4.0], [4.0, 5.0]]))
    >>> print((W @ W).round(12) * 9)
    [[ 5. -4.]
     [-4.  5.]]
    """
    result: RootResult[A] = solve_power(a, exponent_of(2, inverse=True), waits=True, **options_of(locals()))
    return answer(result, on_bad)


def select_method(
    a: Array,
    /,
    p: int,
    *,
    inverse: bool = True,
    method: str | Method = "auto",
    regularization: Regularization | float | None = None,
    assume_a: str = "pos",
    rtol: float | None = None,
    max_iter: int | None = None,
    compute_dtype: Any = None,
) -> Method:
    """Return the method that `solve` would use for the same arguments; its repr gives the reason.

    Parameters
    ----------
    a : array (..., n, n)
        Only its shape, dtype and device are used.
    p : int
    inverse, method, regularization, assume_a, rtol, max_iter, compute_dtype
        As in `solve`.

    Returns
    -------
    Method

    Raises
    ------
    TypeError, ValueError
        As `solve`, for example if the method requested does not support the problem.

    Examples
    --------
    >>> import numpy as np
    >>> from matroot import select_method
    >>> select_method(np.eye(3), 3, assume_a="gen").name
    'schur_newton'
    """
    options = options_of(locals())
    return plan(*take(a), exponent_of(p, inverse), **options).method


def cond_pth_root(a: Array, /, p: int, *, inverse: bool = True, assume_a: str = "pos") -> Array:
    """Compute the relative condition number of A -> A^{-1/p} in the Frobenius norm, about kappa / p for "pos".

    A relative perturbation eps of A changes the root by up to this number times eps. For "pos" the number is exact:
    ``max |Gamma_ij| ||A||_F / ||X||_F`` with the divided differences Gamma of the root over the eigenvalues. For "gen"
    it is estimated from below by a power method on the Frechet derivative.

    Parameters
    ----------
    a : array (..., n, n)
    p : int
        Positive.
    inverse : bool
        Of A^{-1/p} (the default) or of A^{1/p}, which is about ``kappa^(1 - 1/p) / p``.
    assume_a : {"pos", "gen"}

    Returns
    -------
    array (...) of float64
        Infinite where the matrix has no such root, or is singular up to the rounding of its dtype (for "pos": where
        its smallest eigenvalue is below 2.2e-16 n of the largest, or below 8 unit roundoffs of the dtype). NaN where
        the matrix is not finite.

    Raises
    ------
    TypeError, ValueError
        As `solve`, for example for a matrix that is not symmetric under "pos".

    References
    ----------
    Higham, Functions of Matrices, SIAM 2008, thm. 3.1, eq. (3.13) (Daleckii-Krein), sec. 3.4 (estimation).

    Examples
    --------
    >>> import numpy as np
    >>> from matroot import cond_pth_root
    >>> bool(cond_pth_root(np.diag([1.0, 1e-6]), 2) > 1e5)
    True
    """
    values, origin = take(a)
    p = check_degree(p)
    plan(values, origin, exponent_of(p, inverse), assume_a=assume_a)  # for its checks of the arguments
    backend = backend_of(values)
    with backend.here(origin):
        return _condition(values, p, bool(inverse), assume_a, origin, backend)


@confined
def _condition(values: Array, p: int, inverse: bool, assume_a: str, origin: Origin, backend: Backend) -> Array:
    xp = backend.xp
    wide = values.astype(np.result_type(values.dtype, np.float64))
    shape, n = wide.shape[:-2], wide.shape[-1]
    stack = wide.reshape(math.prod(shape), n, n)
    finite = xp.isfinite(stack).all((-1, -2))
    stack = xp.where(finite[:, None, None], stack, xp.eye(n))
    if assume_a == "gen":
        from matroot.methods.frechet import cond_pth_root_general

        cond = np.array([cond_pth_root_general(A, exponent_of(p, inverse)) for A in stack], dtype=np.float64)
    else:
        stack, gap = symmetrized(stack, origin, backend, lone=not shape)
        finite &= gap <= asymmetry_bar(origin)
        given = unit_roundoff(origin.dtype_name) if is_inexact(origin.dtype_name) else 0.0
        share = smallest_share(n, 2.0**-52, given)
        cond = conditioning.cond_from_eigenvalues(backend.eigvalsh(stack), p, share, inverse)
    cond = xp.where(finite, cond, xp.nan)
    return origin.give_back(cond.reshape(shape), as_input=False)


def answer(result: RootResult[A], on_bad: str = "raise") -> A:
    """Return x of a result; raise if a matrix failed, and warn if digits were lost. Nothing of this while traced."""
    if on_bad not in ("raise", "nan"):
        raise ValueError(f"on_bad must be 'raise' or 'nan', got {on_bad!r}")
    if not has_values(result.x):
        return result.x
    status = on_host(result.status)
    if not status.any():
        return result.x
    failed, x = ~np.isin(status, USABLE), result.x
    if failed.any():
        if on_bad == "raise":
            what = "has no root" if failed.sum() == 1 else "have no root"
            raise RootError(_report(result, failed, what), result, np.nonzero(failed) if failed.ndim else ())
        x = with_nan(x, result.status, [s for s in Status if s not in USABLE])
    lost = status == Status.ILL_CONDITIONED
    if lost.any():
        warnings.warn(_report(result, lost, "ill-conditioned"), ConditionWarning, stacklevel=caller())
    return x


def caller() -> int:
    """Return the stacklevel of the first frame outside of matroot, to which a warning should point."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_globals.get("__name__", "").startswith("matroot."):
        frame, level = frame.f_back, level + 1
    return level


def _report(result: RootResult[Any], which: np.ndarray, what: str) -> str:
    first = int(np.flatnonzero(which.ravel())[0])
    if which.ndim == 0:
        return f"the matrix {result.sentence(first)}"
    at = place(first, which.shape)
    return f"{int(which.sum())} of {which.size} matrices {what}; the first, a{at}, {result.sentence(first)}"
