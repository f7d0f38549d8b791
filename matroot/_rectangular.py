"""Public functions through singular values and eigenvalues: `polar`, `spectral_power` and `orthogonalizer`."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any, cast

import numpy as np

from matroot._result import A
from matroot._status import Status
from matroot.autodiff.forms import Power
from matroot.autodiff.graphs import between_graphs
from matroot.backends.arrays import check_square, dtype_name, transformed_by
from matroot.backends.holds import confined
from matroot.backends.keywords import is_number
from matroot.backends.linalg import adjoint, hermitian_part
from matroot.backends.loading import deferred
from matroot.rectangular import certificate, tall
from matroot.rectangular.orthogonal import orthogonalizers
from matroot.rectangular.powers import Found, spectral
from matroot.rectangular.result import OrthogonalizerResult, PolarResult, SpectralResult
from matroot.rectangular.stack import Stack, gathered

Array = Any

#: Largest numerator and denominator of an exponent.
LARGEST = 64


@between_graphs
def polar(a: A, /, *, rtol: float | None = None, method: str = "auto") -> PolarResult[A]:
    """Compute the polar decomposition A = U H: the nearest matrix with orthonormal columns, and (A^H A)^{1/2}.

    U is U V^H of the singular value decomposition A = U S V^H: the orthogonal (unitary) matrix nearest to A, and the
    direction of the Muon optimizer. A matrix without full rank has a partial isometry U with the null space of A; its
    status and `rank` say so.

    Parameters
    ----------
    a : array (..., m, n)
        numpy, cupy, torch, jax or another DLPack array, real or complex. Not written to. For m < n the rows of U are
        orthonormal, and H = (A^H A)^{1/2} (n, n) is singular, as that of ``scipy.linalg.polar(a, side="right")``.
    rtol : float, optional
        Singular values up to rtol times the largest count as 0. None: those that rounding of the input or of LAPACK
        may have made, up to 16 u (1/sqrt(m) + 1/sqrt(n)) ||A||_F + 16 sqrt(m) 1e-16 sigma_max for m >= n, u the unit
        roundoff of the dtype.
    method : {"auto", "products", "svd"}
        ``"products"`` computes U = A (A^H A)^{-1/2} with `solve`, ``"svd"`` decomposes A. "auto" is "products" for
        matrices that are conditioned well enough for their dtype, and "svd" for all others. float64 input is tried by
        products for m >= 2 n only, and kept for condition numbers up to 16: beyond, squaring A would lose digits.

    Returns
    -------
    PolarResult
        With `u`, `h`, `status`, `orthogonality`, `residual`, `rank` and `cond`.

    Raises
    ------
    TypeError, ValueError
        An argument is wrong.

    See Also
    --------
    spectral_power : other powers of the singular values.
    spectral_derivative : the derivative of the factor U, in one direction.

    Notes
    -----
    torch can differentiate both factors, and jax trace and differentiate them, once and twice. A matrix of lower rank
    than min(m, n) has NaN for its gradient.

    References
    ----------
    Higham, Functions of Matrices, SIAM 2008, ch. 8; Higham, SIAM J. Sci. Stat. Comput. 7 (1986), for the sensitivity.

    Examples
    --------
    >>> import numpy as np
    >>> from matroot import polar
    >>> A = np.array([[3.0, 0.0], [4.0, 0.0], [0.0, 2.0]])
    >>> result = polar(A)
    >>> print(result.u.round(12))
    [[0.6 0. ]
     [0.8 0. ]
     [0.  1. ]]
    >>> np.allclose(result.u @ result.h, A)
    True
    """
    compute = partial(_polar, rtol=checked_rtol(rtol), method=checked_method(method))
    return cast(PolarResult[A], _computed(a, "polar", Fraction(0), compute))


@confined
def _polar(a: Array, rtol: float | None, method: str) -> PolarResult[Any]:
    return tall.factors(PolarResult, "u", a, rtol, method, _any_polar)


def _any_polar(a: Array, rtol: float | None, method: str) -> PolarResult[Any]:
    stack = gathered(a)
    xp = stack.backend.xp
    with stack.backend.here(stack.origin):
        found = spectral(stack, Fraction(0), rtol, method, wants_h=True)
        B, m, n = found.x.shape
        u = xp.empty(found.x.shape, stack.out_dtype)
        h = xp.empty((B, m, m) if stack.flipped else (B, n, n), u.dtype)
        orthogonality, residual = xp.zeros((2, B))

        def finish(rows: slice) -> None:
            part, X, H = stack.part(rows), found.x[rows], found.h[rows]
            if stack.flipped:
                H = hermitian_part(X @ (H @ adjoint(X)))
            u[rows], h[rows] = part.rounded(X, 0), part.rounded(H, 1)
            U = part.scaled(u[rows], 0)
            orthogonality[rows] = certificate.orthogonality(part, U, found.kept[rows])
            residual[rows] = certificate.polar_residual(part, U, part.scaled(h[rows], 1))

        if stack.A.size:
            stack.backend.run_chunks(finish, B, m, stack.A.dtype.itemsize)
        else:
            h[...] = 0
        explained = certificate.explained_residual(stack, Fraction(0), found)
        lost, normal = certificate.faintness(stack)
        worst = xp.maximum(orthogonality, residual - found.dropped - lost)
        status = certificate.statuses(stack, Fraction(0), found, u, worst, explained)
        faint = (found.kept > 0) & (status == int(Status.CONVERGED)) & (abs(h).max((-1, -2), initial=0) < normal)
        status = xp.where(faint, int(Status.ILL_CONDITIONED), status)
        overflow = ~xp.isfinite(h).all((-1, -2)) & (status < int(Status.DIVERGED))
        status = xp.where(overflow, int(Status.DIVERGED), status).astype(xp.int8)
        facts = _facts(stack, found, status, residual=residual, orthogonality=orthogonality)
        _erase(status, u, h)
        if stack.flipped:
            u = xp.ascontiguousarray(adjoint(u))
        return PolarResult(u=stack.give_back(u), h=stack.give_back(h), **facts)


@between_graphs
def spectral_power(
    a: A, s: int | Fraction | float, /, *, rtol: float | None = None, method: str = "auto"
) -> SpectralResult[A]:
    """Compute U S^s V^H of the singular value decomposition A = U S V^H: a power of the singular values.

    s = 0 is the factor U of `polar`, s = 1 is A, s = -1 the conjugate transpose of the pseudo-inverse. Singular
    values that count as 0 give 0, for negative s too.

    Parameters
    ----------
    a : array (..., m, n)
        As for `polar`.
    s : int, Fraction or float
        A ratio of integers up to 64, at least -1.
    rtol, method
        As for `polar`.

    Returns
    -------
    SpectralResult
        With `x`, `status`, `residual`, `rank` and `cond`.

    Raises
    ------
    TypeError, ValueError
        An argument is wrong.

    Notes
    -----
    torch can differentiate x, and jax trace and differentiate it, once and twice. For s < 1 a matrix of lower rank than
    min(m, n) has NaN for its gradient.

    Examples
    --------
    >>> import numpy as np
    >>> from matroot import spectral_power
    >>> A = np.array([[3.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    >>> print(spectral_power(A, 0.5).x.round(4))
    [[1.3416 0.    ]
     [1.7889 0.    ]
     [0.     2.    ]]
    >>> np.allclose(spectral_power(A, -1).x.T, np.linalg.pinv(A))
    True
    """
    power = checked_exponent(s)
    compute = partial(_spectral_power, s=power, rtol=checked_rtol(rtol), method=checked_method(method))
    return cast(SpectralResult[A], _computed(a, "spectral_power", power, compute))


@confined
def _spectral_power(a: Array, s: Fraction, rtol: float | None, method: str) -> SpectralResult[Any]:
    if s == 0:
        return tall.factors(SpectralResult, "x", a, rtol, method, partial(_any_power, s=s))
    return _any_power(a, s, rtol, method)


def _any_power(a: Array, s: Fraction, rtol: float | None, method: str) -> SpectralResult[Any]:
    stack = gathered(a)
    xp = stack.backend.xp
    with stack.backend.here(stack.origin):
        found = spectral(stack, s, rtol, method, wants_h=False)
        x = xp.empty(found.x.shape, stack.out_dtype)
        residual = xp.zeros(len(x))

        def finish(rows: slice) -> None:
            part = stack.part(rows)
            x[rows] = part.rounded(found.x[rows], s)
            residual[rows] = certificate.power_residual(part, part.scaled(x[rows], s), s, found.part(rows))

        if x.size:
            stack.backend.run_chunks(finish, len(x), x.shape[1], stack.A.dtype.itemsize)
        explained = certificate.explained_residual(stack, s, found)
        status = certificate.statuses(stack, s, found, x, residual, explained)
        facts = _facts(stack, found, status, residual=residual)
        _erase(status, x)
        if stack.flipped:
            x = xp.ascontiguousarray(adjoint(x))
        return SpectralResult(x=stack.give_back(x), exponent=s, **facts)


@between_graphs
def orthogonalizer(a: A, /, *, rtol: float | None = None, absolute: float = 0.0) -> OrthogonalizerResult[A]:
    """Compute X = Q_k L_k^{-1/2} of symmetric A = Q L Q^H, n x k: X^H A X = I on the directions that are kept.

    This is Loewdin's canonical orthogonalisation of the basis functions whose overlaps are in A. Directions with small
    eigenvalues, in which the functions are nearly dependent, are left out. `inv_sqrtm` with `PseudoInverse` is the
    square counterpart, Loewdin's symmetric orthogonalisation.

    Parameters
    ----------
    a : array (..., n, n)
        Symmetric (Hermitian) positive semidefinite. A lone matrix that is not symmetric is a ValueError; in a batch it
        gets the status ``NOT_SYMMETRIC``.
    rtol : float, optional
        Eigenvalues up to rtol times the largest are left out. None: 2 n u, u the unit roundoff of the dtype.
    absolute : float
        Eigenvalues up to this size are left out, too.

    Returns
    -------
    OrthogonalizerResult
        With `x`, `mask`, `rank`, `kept_least`, `dropped_most`, `residual` and `status`. A batch has as many columns as
        its largest rank; the others are 0, and False in `mask`.

    Raises
    ------
    TypeError, ValueError
        An argument is wrong.

    Notes
    -----
    torch can differentiate x, and jax trace and differentiate it, once and twice, where it is used in a way that is the
    same for x and x U, U unitary: through ``x @ x.mH``, say. torch refuses a gradient that is not; jax cannot. While
    jax traces, x has n columns.

    References
    ----------
    Loewdin, Adv. Quantum Chem. 5 (1970), 185-199.

    Examples
    --------
    >>> import numpy as np
    >>> from matroot import orthogonalizer
    >>> S = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 4.0]])        # the first two are the same function
    >>> result = orthogonalizer(S)
    >>> result.x.shape, int(result.rank)
    ((3, 2), 2)
    >>> np.allclose(result.x.T @ S @ result.x, np.eye(2))
    True
    """
    if not isinstance(absolute, int | float | np.floating) or not 0 <= absolute < np.inf:
        raise ValueError(f"absolute must be a finite number, at least 0, got {absolute!r}")
    compute = partial(_orthogonalizer, rtol=checked_rtol(rtol), absolute=float(absolute))
    library = transformed_by(a)
    if library is None:
        return compute(a)
    check_square(tuple(a.shape))
    module = deferred("matroot.rectangular.torch") if library == "torch" else deferred("matroot.rectangular.jax")
    return cast(OrthogonalizerResult[A], module.orthogonalizer(a, compute))


@confined
def _orthogonalizer(a: Array, rtol: float | None, absolute: float) -> OrthogonalizerResult[Any]:
    stack = gathered(a)
    xp = stack.backend.xp
    n = stack.A.shape[-1]
    check_square(tuple(a.shape))
    with stack.backend.here(stack.origin):
        kept = orthogonalizers(stack, rtol, absolute)
        failed = (kept.status > int(Status.STAGNATED)) & stack.finite
        rank = xp.where(kept.status > int(Status.STAGNATED), 0, kept.rank)
        k = int(rank.max()) if len(rank) else n
        x = xp.ascontiguousarray(kept.x[:, :, :k])
        _erase(kept.status, x)
        mask = xp.arange(k) < rank[:, None]
        numbers = {name: getattr(kept, name) for name in ("residual", "cond", "kept_least", "dropped_most")}
        numbers = {name: xp.where(failed | ~stack.finite, xp.nan, values) for name, values in numbers.items()}
        numbers |= {"status": kept.status, "rank": rank, "smallest": kept.smallest}
        return OrthogonalizerResult(
            x=stack.give_back(x),
            mask=stack.origin.give_back(mask.reshape(*stack.batch, k), as_input=False),
            method="eigen",
            certificate=certificate.kind(n),
            **{name: stack.give_facts(values) for name, values in numbers.items()},
        )


def checked_exponent(s: Any) -> Fraction:
    """Return s as a ratio of small integers."""
    if not (isinstance(s, Fraction) or is_number(s)):
        raise TypeError(f"s must be an int, a Fraction or a float, got {s!r}")
    near = None
    if not isinstance(s, float | np.floating):
        near = Fraction(int(s) if isinstance(s, np.integer) else s).limit_denominator(LARGEST)
    elif np.isfinite(s):
        near = Fraction(float(s)).limit_denominator(LARGEST)
    exact = near is not None and (near == s or (isinstance(s, float | np.floating) and float(near) == s))
    if near is None or not exact or not -1 <= near <= LARGEST or near.numerator > LARGEST:
        raise ValueError(f"s must be at least -1 and a ratio of integers up to {LARGEST}, got {s!r:.40}")
    return near


def checked_rtol(rtol: Any) -> float | None:
    """Return `rtol`; raise if it is no number in [0, 1)."""
    if rtol is not None and not (isinstance(rtol, int | float | np.floating) and 0 <= rtol < 1):
        raise ValueError(f"rtol must be None or a number in [0, 1), got {rtol!r}")
    return None if rtol is None else float(rtol)


def checked_method(method: Any) -> str:
    """Return `method`; raise if it is unknown."""
    if method not in ("auto", "products", "svd"):
        raise ValueError(f"method must be 'auto', 'products' or 'svd', got {method!r}")
    return str(method)


def _computed(a: Array, name: str, s: Fraction, compute: Callable[[Array], Any]) -> Any:
    """Return the result of `compute`, also for an array that torch differentiates or jax traces."""
    library = transformed_by(a)
    if library is None:
        return compute(a)
    if len(a.shape) < 2:
        raise ValueError(f"a must be (..., m, n), got {tuple(a.shape)}")
    module = deferred("matroot.rectangular.torch") if library == "torch" else deferred("matroot.rectangular.jax")
    return getattr(module, name)(a, Power(s, None, "any", dtype_name(a.dtype)), compute)


def _facts(stack: Stack, found: Found, status: Array, **measured: Array) -> dict[str, Any]:
    """Return the fields that both results have, in the caller's kind of array."""
    xp = stack.backend.xp
    numbers = {**measured, "cond": found.cond}
    numbers = {name: xp.where(stack.finite & ~found.failed, v, xp.nan) for name, v in numbers.items()}
    numbers |= {"status": status, "rank": found.kept}
    methods = {bool(one): None for one in found.by_svd.tolist()}
    return {
        "method": ", ".join("svd" if one else "products" for one in sorted(methods)) or "svd",
        "certificate": certificate.kind(stack.A.shape[-1]),
        **{name: stack.give_facts(values) for name, values in numbers.items()},
    }


def _erase(status: Array, *results: Array) -> None:
    """Set the matrices without a result to NaN."""
    for values in results:
        values[status > int(Status.STAGNATED)] = np.nan
