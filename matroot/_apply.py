"""A^s B without forming A^s, of dense and sparse matrices, operators and functions."""

from __future__ import annotations

import warnings
from fractions import Fraction
from typing import Any

import numpy as np

from matroot._regularization import LARGEST, PseudoInverse, Regularization, as_regularization
from matroot._result import A, on_host
from matroot._roots import caller, fractional_power
from matroot._solve import as_exponent, check_accuracy, exponent_of, options_of
from matroot._status import USABLE, ConditionWarning, RootError, Status
from matroot.applied.result import ApplyResult
from matroot.backends.arrays import check_square, library_of, take, transformed_by
from matroot.backends.holds import confined
from matroot.backends.keywords import is_number
from matroot.backends.loading import deferred
from matroot.methods.base import Method
from matroot.methods.minimax import Minimax

OPTIONS = ("method", "regularization", "rtol", "max_iter", "lambda_min", "compute_dtype")

#: Why a matrix of a dense batch has failed.
_WHY = {
    Status.NONFINITE_INPUT: "holds NaN or infinity",
    Status.NOT_SYMMETRIC: "is not symmetric",
    Status.SINGULAR: "is singular",
    Status.DIVERGED: "has one that leaves the range of the dtype",
}


@confined
def solve_apply(
    a: Any,
    p: int | None,
    b: A,
    /,
    *,
    s: int | Fraction | float | None = None,
    inverse: bool = True,
    method: str | Method = "auto",
    regularization: Regularization | float | None = None,
    rtol: float | None = None,
    max_iter: int | None = None,
    lambda_min: float | None = None,
    compute_dtype: Any = None,
) -> ApplyResult[A]:
    """Compute A^{-1/p} B, or another power of A times B, with a bound of the error of every column.

    A is symmetric (Hermitian) positive definite; for positive exponents it may be semidefinite. A^s is not formed, and
    A need not be: a sparse matrix, an operator and a function are taken too.

    Parameters
    ----------
    a : array (..., n, n), sparse matrix, operator or function
        A dense array of any library; a ``scipy.sparse`` matrix or array; a ``scipy.sparse.linalg.LinearOperator`` or
        another object with ``matvec``, a sparse matrix of cupy or torch: anything that ``a @ v`` multiplies; or a
        function v -> A v. A function is called with arrays of the kind and dtype of `b`: (n,) if `b` is a vector, else
        (n, k) for some k, and returns the product in the same shape.
    p : int or None
        Degree of the root, positive; None if `s` is given.
    b : array (..., n, m) or (n,)
        Batch dimensions broadcast against those of a dense `a`; with others b is (n, m) or (n,).
    s : int, Fraction or float
        In place of p, an exponent, -1 <= s < 1, not 0.
    inverse : bool
        A^{-1/p} (the default) or A^{1/p}.
    method : {"auto", "eigen", "poles", "lanczos"} or Eigen
        ``"eigen"`` for dense arrays. Else ``"lanczos"``, which needs products only; and ``"poles"`` for
        ``scipy.sparse``, which factorizes A + t I for some 15 to 50 shifts t. "auto" takes Lanczos until it has cost
        as much as the factorizations would.
    regularization : float or Regularization, optional
        As in `solve`; a `Ridge` where `a` is no dense array. `PseudoInverse` has no bound here.
    rtol : float, optional
        Relative error wanted of every column, ``||x - A^s b|| <= rtol ||A^s b||``. None: the accuracy of the dtype. A
        larger rtol saves steps of Lanczos, and factorizations.
    max_iter : int, optional
        Most steps of Lanczos; None: 5000.
    lambda_min : float, optional
        A lower bound of the eigenvalues of `a`, if you know one, for Lanczos. It makes the error a bound, where it
        would be an estimate; a ridge added to a semidefinite matrix does so, too.
    compute_dtype : dtype or str, optional
        For dense arrays, as in `solve`. Others are computed in float64; but a function works in the dtype of `b`.

    Returns
    -------
    ApplyResult
        With `x`, `status`, `error` and what the error rests on, the numbers of products and factorizations.

    Raises
    ------
    TypeError, ValueError
        An argument is wrong, or A is not symmetric. What an operator or a function raises is passed on.

    Notes
    -----
    Both ways solve (A + t I) x = b for the poles t of a sum of fractions that is x^s up to 1e-2 rtol. The residuals of
    these systems bound the error, with a lower bound of the eigenvalues of A [1]_, [2]_. Lanczos runs on all columns in
    lockstep, one product with an (n, m) array a step. Vectors beyond 256 MB are not kept, but computed again at the
    end, at the price of a second product.

    References
    ----------
    .. [1] Frommer & Simoncini, Stopping criteria for rational matrix functions of Hermitian and symmetric matrices,
       SIAM J. Sci. Comput. 30 (2008), 1387-1412.
    .. [2] Chen, Greenbaum, Musco & Musco, Error bounds for Lanczos-based matrix function approximation, SIAM J. Matrix
       Anal. Appl. 43 (2022), 787-811.

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.sparse
    >>> from matroot import solve_apply
    >>> L = scipy.sparse.diags([-1.0, 2.5, -1.0], [-1, 0, 1], shape=(1000, 1000))
    >>> result = solve_apply(L, 2, np.ones(1000))
    >>> x = solve_apply(L, 2, result.x).x
    >>> np.allclose(L @ x, 1), bool(result.error < 1e-13), result.method, result.certificate
    (True, True, 'poles', 'bound')
    """
    if p is not None and s is not None:
        raise TypeError(f"give p, for a root, or s, for a power; got p={p!r} and s={s!r}")
    exponent = exponent_of(p, inverse) if s is None else as_exponent(s)
    if transformed_by(a) or transformed_by(b):
        raise TypeError("solve_apply does not differentiate and is not traced: use apply_inverse_pth_root")
    options = options_of(locals(), OPTIONS)
    if _is_operator(a):
        return _of_operator(a, exponent, b, **options)
    if isinstance(method, Minimax) or method == "minimax":
        raise ValueError("solve_apply has no bound for method='minimax'; apply_inverse_pth_root takes it")
    if isinstance(as_regularization(regularization), PseudoInverse):
        raise ValueError("solve_apply has no bound for PseudoInverse; apply_inverse_pth_root takes it")
    return _of_dense(a, exponent, b, **options)


@confined
def apply_inverse_pth_root(
    a: Any,
    p: int,
    b: A,
    /,
    *,
    method: str | Method = "auto",
    regularization: Regularization | float | None = None,
    rtol: float | None = None,
    max_iter: int | None = None,
    lambda_min: float | None = None,
    compute_dtype: Any = None,
) -> A:
    """Compute A^{-1/p} B for symmetric (Hermitian) positive definite A, without forming A^{-1/p}.

    Use it where the root is needed once, to whiten a few vectors, to draw samples or to precondition one gradient; and
    where A is sparse or known by its products. Where torch differentiates or jax traces a dense A, the root is formed
    and multiplied.

    Parameters
    ----------
    a : array (..., n, n), sparse matrix, operator or function
        As in `solve_apply`. Not written to.
    p : int
        Positive.
    b : array (..., n, m) or (n,)
    method : str or Method
        As in `solve_apply`; and for dense arrays ``"minimax"``, which replaces one n x n product of every step of the
        iteration by a product of B with an n x n matrix. It is faster than `inverse_pth_root` while B has fewer columns
        than n/4 and A is used once, and has no certificate.
    regularization, rtol, max_iter, lambda_min, compute_dtype
        As in `solve_apply`. `Minimax` takes the rules that add to the diagonal.

    Returns
    -------
    array (..., n, m) or (n,)
        Of the kind and device of `b`, in the wider dtype of the two.

    Raises
    ------
    ValueError
        The shapes do not fit, or the method does not support the problem.
    RootError
        A matrix is not positive definite, or not finite, or the iteration has not converged.

    Warns
    -----
    ConditionWarning
        Fewer than two digits are certain, or rounding keeps `rtol` from being reached.

    See Also
    --------
    solve_apply : the same with a bound of the error.
    inverse_pth_root : the root itself.

    Examples
    --------
    >>> import numpy as np
    >>> from matroot import apply_inverse_pth_root
    >>> A = np.array([[5.0, 4.0], [4.0, 5.0]])
    >>> apply_inverse_pth_root(A, 2, np.array([3.0, -3.0])).round(12)
    array([ 3., -3.])
    """
    options = options_of(locals(), OPTIONS)
    return _applied(a, exponent_of(p, inverse=True), b, options)


@confined
def apply_pth_root(
    a: Any,
    p: int,
    b: A,
    /,
    *,
    method: str | Method = "auto",
    regularization: Regularization | float | None = None,
    rtol: float | None = None,
    max_iter: int | None = None,
    lambda_min: float | None = None,
    compute_dtype: Any = None,
) -> A:
    """Compute A^{1/p} B for symmetric (Hermitian) positive semidefinite A, without forming A^{1/p}.

    With p = 2 and random B, the result is a sample of a Gaussian process with the covariance matrix A.

    Parameters, returns, errors and warnings are those of `apply_inverse_pth_root`, without ``method="minimax"``.

    Parameters
    ----------
    a : array (..., n, n), sparse matrix, operator or function
    p : int
        Positive.
    b : array (..., n, m) or (n,)
    method, regularization, rtol, max_iter, lambda_min, compute_dtype
        As in `solve_apply`.

    Returns
    -------
    array (..., n, m) or (n,)

    Examples
    --------
    >>> import numpy as np
    >>> from matroot import apply_pth_root
    >>> apply_pth_root(lambda v: 4 * v, 2, np.array([1.0, 2.0]))
    array([2., 4.])
    """
    options = options_of(locals(), OPTIONS)
    return _applied(a, exponent_of(p, inverse=False), b, options)


@confined
def apply_fractional_power(
    a: Any,
    s: int | Fraction | float,
    b: A,
    /,
    *,
    method: str | Method = "auto",
    regularization: Regularization | float | None = None,
    rtol: float | None = None,
    max_iter: int | None = None,
    lambda_min: float | None = None,
    compute_dtype: Any = None,
) -> A:
    """Compute A^s B for symmetric (Hermitian) positive (semi)definite A, without forming A^s.

    Parameters, returns, errors and warnings are those of `apply_inverse_pth_root`, without ``method="minimax"``.

    Parameters
    ----------
    a : array (..., n, n), sparse matrix, operator or function
    s : int, Fraction or float
        -1 <= s < 1, not 0. Apply A or A^{-1} more often for others.
    b : array (..., n, m) or (n,)
    method, regularization, rtol, max_iter, lambda_min, compute_dtype
        As in `solve_apply`.

    Returns
    -------
    array (..., n, m) or (n,)

    Examples
    --------
    >>> import numpy as np
    >>> from matroot import apply_fractional_power
    >>> apply_fractional_power(np.diag([1.0, 32.0]), -0.4, np.ones(2)).round(12)
    array([1.  , 0.25])
    """
    options = options_of(locals(), OPTIONS)
    return _applied(a, as_exponent(s), b, options)


def _is_operator(a: Any) -> bool:
    return deferred("matroot.applied.operators").is_operator(a)


def _of_operator(a: Any, s: Fraction | float, b: Any, *, compute_dtype: Any, **options: Any) -> ApplyResult[Any]:
    """Check what is not checked below, and apply."""
    if compute_dtype is not None and str(compute_dtype).rpartition(".")[2] not in ("float64", "complex128"):
        raise ValueError(f"compute_dtype is for dense arrays; others are computed in float64, got {compute_dtype!r}")
    _check_lanczos(options["max_iter"], options["lambda_min"])
    check_accuracy(options["rtol"], None)
    return deferred("matroot.applied.solve").apply_operator(a, s, b, **options)


def _check_lanczos(max_iter: Any, lambda_min: Any) -> None:
    """Raise if `max_iter` is no positive int, or `lambda_min` no positive number."""
    check_accuracy(None, max_iter)
    if lambda_min is not None and not (is_number(lambda_min) and 0 < lambda_min <= LARGEST):
        raise ValueError(f"lambda_min must be None or a positive number, got {lambda_min!r}")


def _check_exponent(s: Fraction | float) -> None:
    if not -1 <= s < 1 or s == 0:
        raise ValueError(f"s must be in [-1, 1), and not 0; got {s}")


def _of_dense(
    a: Any, s: Fraction | float, b: Any, *, max_iter: Any, lambda_min: Any, **options: Any
) -> ApplyResult[Any]:
    """Apply; `max_iter` and `lambda_min` are for Lanczos."""
    _check_lanczos(max_iter, lambda_min)
    _check_exponent(s)
    return deferred("matroot.applied.dense").apply_dense(a, s, b, **options)


def _applied(a: Any, s: Fraction | float, b: Any, options: dict[str, Any]) -> Any:
    """Return A^s B, or raise."""
    if _is_operator(a):
        if transformed_by(b):
            raise TypeError("only a dense a is differentiated and traced: pass b.detach(), or an array")
        return _answer(_of_operator(a, s, b, **options))
    library = transformed_by(a) or transformed_by(b)
    if library is not None:
        return _recorded(library, a, s, b, **options)
    return _answer(_of_dense(a, s, b, **options))


def _recorded(library: str, a: Any, s: Fraction | float, b: Any, *, lambda_min: Any, **options: Any) -> Any:
    """Form the root where torch differentiates or jax traces, after the same checks, and multiply."""
    dense = deferred("matroot.applied.dense")
    _check_lanczos(options["max_iter"], lambda_min)
    _check_exponent(s)
    dense.method_for(options["method"], s)  # for its checks
    given = [x if library_of(x) else take(x, name)[0] for x, name in ((a, "a"), (b, "b"))]
    kinds = [library_of(x) for x in given]
    if kinds[0] != kinds[1] and "torch" in kinds:  # jax takes constants of numpy
        raise TypeError(f"a and b must come from one library, got {kinds[0]} and {kinds[1]}")
    a, b = given
    check_square(tuple(a.shape))
    dense.check_columns(tuple(a.shape), tuple(b.shape))
    module = deferred("matroot.autodiff.torch") if library == "torch" else deferred("matroot.autodiff.jax")
    return module.product(fractional_power(a, s, **options), b)


def _answer(result: ApplyResult[Any]) -> Any:
    """Return x; raise for failures, and warn of lost digits."""
    status = on_host(result.status)
    failed = ~np.isin(status, [int(one) for one in USABLE])
    if failed.any():
        if result.method in ("lanczos", "poles"):
            raise RootError(result.message, result, np.nonzero(failed) if failed.ndim else ())
        columns = failed.reshape(*on_host(result.cond).shape, -1)
        of_matrices = columns.any(-1).ravel()
        first = int(np.flatnonzero(of_matrices)[0])
        why = _WHY.get(Status(int(status.ravel()[np.flatnonzero(failed.ravel())[0]])), "is not positive definite")
        raise RootError(
            f"{np.count_nonzero(of_matrices)} of {of_matrices.size} matrices have no such root; the first, {first} of "
            f"the flattened batch, {why}: add a ridge, or see solve(a, p).message"
        )
    if status.any():
        warnings.warn(f"ill-conditioned: {result.message}", ConditionWarning, stacklevel=caller())
    return result.x
