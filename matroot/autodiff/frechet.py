"""The functions `frechet_derivative` and `spectral_derivative`."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from matroot._rectangular import checked_exponent
from matroot._regularization import Regularization
from matroot._result import on_host
from matroot._solve import as_exponent, exponent_of, plan
from matroot._status import RootError
from matroot.autodiff.forms import Power, evaluate
from matroot.backends import backend_of
from matroot.backends.arrays import (
    Origin,
    check_numbers,
    dtype_name,
    is_inexact,
    library_of,
    readable,
    take,
    transformed_by,
)
from matroot.backends.holds import confined
from matroot.backends.loading import deferred
from matroot.pipeline.scaling import symmetrized

Array = Any


@confined
def frechet_derivative(
    a: Array,
    e: Array,
    /,
    p: int | None = None,
    *,
    s: int | Fraction | float | None = None,
    inverse: bool = True,
    regularization: Regularization | float | None = None,
    assume_a: str = "pos",
) -> Array:
    """Compute the Frechet derivative of the matrix root, L(A, E), with (A + t E)^{-1/p} = A^{-1/p} + t L + O(t^2).

    Under "pos" the derivative is ``Q (Gamma o (Q^H E Q)) Q^H`` with the divided differences Gamma of the power over
    the eigenvalues of A, computed without cancellation: equal eigenvalues are as accurate as others. Under "gen" it is
    the corner block of the power of ``[[A, E], [0, A]]`` in the Schur basis of A. All arithmetic is in float64.

    Parameters
    ----------
    a : array (..., n, n)
        numpy, cupy, torch, jax or another DLPack array. Not written to.
    e : array (..., n, n)
        The direction, of the same library. Batch dimensions broadcast against those of `a`. Under "pos" its Hermitian
        part counts.
    p : int, optional
        Positive; the function is A^{-1/p}, or A^{1/p}.
    s : int, Fraction or float, optional
        Instead of `p`: the function is A^s.
    inverse : bool
        A^{-1/p} (the default) or A^{1/p}; for `p` only.
    regularization : float or Regularization, optional
        As in `solve`. A ridge, floor or shift relative to an eigenvalue moves with that eigenvalue, and the derivative
        includes this.
    assume_a : {"pos", "gen"}

    Returns
    -------
    array (..., n, n)
        Of the kind and device of `a`, in the wider dtype of the two.

    Raises
    ------
    RootError
        A matrix has no such power, or the power has no derivative there.
    TypeError, ValueError
        An argument is wrong.

    See Also
    --------
    cond_pth_root : the norm of the derivative, relative.

    Notes
    -----
    The cost under "pos" is an eigendecomposition and four products; under "gen" that of a root of a triangular matrix
    of order 2n. torch and jax can differentiate the derivative once more, in `a` and in `e`. While torch differentiates
    or jax traces, nothing is raised, and a matrix without derivative gives NaN.

    References
    ----------
    Higham, Functions of Matrices, SIAM 2008, thm. 3.11 (Daleckii-Krein) and eq. (3.16).

    Examples
    --------
    >>> import numpy as np
    >>> from matroot import frechet_derivative, sqrtm
    >>> A, E = np.array([[5.0, 4.0], [4.0, 5.0]]), np.array([[1.0, 0.0], [0.0, 0.0]])
    >>> L = frechet_derivative(A, E, 2, inverse=False)
    >>> X = sqrtm(A)
    >>> np.allclose(X @ L + L @ X, E)                     # from X^2 = A
    True
    """
    if (p is None) == (s is None):
        raise TypeError(f"give p, for a root, or s, for a power; got p={p!r} and s={s!r}")
    power_of = exponent_of(p, inverse) if s is None else as_exponent(s)
    return _derivative(a, e, lambda a: _power(a, power_of, regularization, assume_a))


@confined
def spectral_derivative(a: Array, e: Array, s: int | Fraction | float, /) -> Array:
    """Compute the Frechet derivative of `spectral_power`, L(A, E), with f(A + t E) = f(A) + t L + O(t^2).

    For s = 0 it is the derivative of the polar factor. The divided differences of the singular values are computed
    without cancellation: equal ones are as accurate as others. All arithmetic is in float64.

    Parameters
    ----------
    a : array (..., m, n)
        numpy, cupy, torch, jax or another DLPack array. Not written to.
    e : array (..., m, n)
        The direction, of the same library. Batch dimensions broadcast against those of `a`.
    s : int, Fraction or float
        As in `spectral_power`.

    Returns
    -------
    array (..., m, n)
        Of the kind and device of `a`, in the wider dtype of the two.

    Raises
    ------
    RootError
        A matrix has no derivative: s < 1, and the rank is below min(m, n), so that the function jumps or has an
        infinite slope.
    TypeError, ValueError
        An argument is wrong.

    Examples
    --------
    >>> import numpy as np
    >>> from matroot import spectral_derivative, polar
    >>> A, E = np.array([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), np.ones((3, 2))
    >>> L = spectral_derivative(A, E, 0)
    >>> U = polar(A).u
    >>> np.allclose(U.T @ L + L.T @ U, 0)                 # from U^T U = I
    True
    """
    power = checked_exponent(s)
    return _derivative(a, e, lambda a: Power(power, None, "any", dtype_name(a.dtype)))


def _derivative(a: Array, e: Array, described: Callable[[Array], Power]) -> Array:
    """Compute the derivative in the direction e of the function that `described` gives for an array."""
    a, e = (x if library_of(x) else take(x, name)[0] for x, name in ((a, "a"), (e, "e")))  # lists of numbers
    if library_of(a) != library_of(e):
        raise TypeError(f"a and e must come from one library, got {library_of(a)} and {library_of(e)}")
    shape = tuple(a.shape)
    if len(shape) < 2 or tuple(e.shape)[-2:] != shape[-2:] or len(e.shape) < 2:
        raise ValueError(f"e must be (..., m, n) like a, got {tuple(e.shape)} and {shape}")
    try:
        shape = np.broadcast_shapes(shape, tuple(e.shape))
    except ValueError:
        raise ValueError(
            f"a and e must have batch dimensions that broadcast, got {shape} and {tuple(e.shape)}"
        ) from None

    library = transformed_by(a) or transformed_by(e)
    if library is not None:
        module = deferred("matroot.autodiff.torch") if library == "torch" else deferred("matroot.autodiff.jax")
        return module.derivative(*module.alike(a, e, shape), described(a))

    values, origin = take(a)
    directions, other = take(e, "e")
    check_numbers(values.dtype, origin)
    check_numbers(directions.dtype, other, "e")
    power = described(a)
    backend, size = backend_of(values), shape[-2:]
    xp = backend.xp
    with backend.here(origin):
        if power.assume_a == "pos" and values.size:
            symmetrized(values.reshape(-1, *size), origin, backend, lone=True)  # for its check
        stack, E = (xp.broadcast_to(x, shape).reshape(math.prod(shape[:-2]), *size) for x in (values, directions))
        L, failed = evaluate("derivative", power, stack, (E,))
        finite = xp.isfinite(stack).all((-1, -2)) & xp.isfinite(E).all((-1, -2))
        failed = on_host(failed | ~finite)
        if failed.any():
            raise RootError(
                f"{failed.sum()} of {failed.size} matrices have no such power, or no derivative of it, or hold NaN or "
                f"infinity; the first is {int(np.flatnonzero(failed)[0])} of the flattened batch; add a ridge, or see "
                "solve(a, p).message"
            )
    L = L.reshape(shape)
    floats = [one for one in (origin, other) if is_inexact(one.dtype_name)] or [origin]
    if len({one.dtype_name for one in floats}) == 1:
        return floats[0].give_back(L)
    with np.errstate(over="ignore"):  # the wider one may be neither: complex64 and float64
        return origin.give_back(L.astype(np.result_type(values, directions), copy=False), as_input=False)


def _power(a: Array, s: Fraction | float, regularization: Any, assume_a: str) -> Power:
    """Check the arguments, and return the function to differentiate."""
    name = dtype_name(a.dtype)
    like = np.broadcast_to(np.empty((), readable(name)), tuple(a.shape))  # only the shape and dtype are used
    job = plan(like, Origin("numpy", a.dtype, None), s, regularization=regularization, assume_a=assume_a)
    return Power(job.problem.s, job.rule, assume_a, name)


__all__ = ["frechet_derivative", "spectral_derivative"]
