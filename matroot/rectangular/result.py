"""Results of `polar`, `spectral_power` and `orthogonalizer`, and their sentences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any, ClassVar, Generic

from matroot._result import A, OfBatch, on_host
from matroot._status import Status

Array = Any

#: Fields with one number for every matrix that sentences use.
_NUMBERS = ("residual", "cond", "rank", "smallest")

_SENTENCES = {
    Status.CONVERGED: "converged: residual {residual:.1e}, rank {rank} at cond {cond:.1e}",
    Status.ILL_CONDITIONED: (
        "has few digits that are certain: rank {rank} of {n}, cond {cond:.1e} (residual {residual:.1e}); "
        "singular values that rounding may have made count as 0, and rtol=... sets another cut"
    ),
    Status.STAGNATED: (
        "has a residual of {residual:.1e}, more than rounding explains at cond {cond:.1e}; use method='svd'"
    ),
    Status.DIVERGED: "has left the range of its dtype, or the SVD has failed (cond {cond:.1e})",
    Status.NONFINITE_INPUT: "holds NaN or infinity; the input must be finite",
}


_OF_OVERLAPS = {
    Status.CONVERGED: "converged: residual {residual:.1e}, {rank} of {n} directions kept at cond {cond:.1e}",
    Status.ILL_CONDITIONED: (
        "keeps {rank} of {n} directions, some of which are rounding of the input at cond {cond:.1e} "
        "(residual {residual:.1e}); use a larger rtol, or a matrix with more digits"
    ),
    Status.STAGNATED: "has a residual of {residual:.1e}, more than rounding explains at cond {cond:.1e}",
    Status.DIVERGED: "has left the range of its dtype, or the decomposition has failed (cond {cond:.1e})",
    Status.NOT_POSITIVE: "has an eigenvalue of {smallest:.1e}, which is no rounding of 0: it is no overlap matrix",
    Status.NOT_SYMMETRIC: "is not symmetric (Hermitian) up to rounding; pass (A + A^T) / 2 if that is what you mean",
    Status.NONFINITE_INPUT: "holds NaN or infinity; the input must be finite",
}


@dataclass(frozen=True, repr=False)
class Measured(OfBatch, Generic[A]):
    """The numbers of a result, one for every matrix.

    Attributes
    ----------
    status : array of int8, (...)
        A `Status` per matrix.
    residual : array of float64, (...)
    rank : array of int, (...)
        Singular values that do not count as 0.
    cond : array of float64, (...)
        Largest over smallest of these; estimated from below where products were used.
    method : str
        ``"products"``, ``"svd"``, or both where the matrices of a batch differ.
    certificate : str
        ``"full"`` if residuals used whole products, ``"probes"`` if they were estimated from 8 random vectors.
    """

    status: Array
    residual: Array
    rank: Array
    cond: Array
    method: str
    certificate: str

    _sentences: ClassVar[dict[Status, str]] = _SENTENCES

    def sentence(self, index: int) -> str:
        names = [f.name for f in fields(self) if f.name in _NUMBERS]
        at = {name: on_host(getattr(self, name)).ravel()[index] for name in names}
        return self._sentences[Status(int(on_host(self.status).ravel()[index]))].format(**at, n=self._full_rank())

    def _full_rank(self) -> int:
        matrices = getattr(self, fields(self)[-1].name)
        return int(min(matrices.shape[-2:]))

    def _lines(self) -> Iterator[tuple[str, str]]:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str | int | float | Fraction):
                yield field.name, str(value)
            elif len(value.shape) >= 2 and field.name in ("u", "h", "x"):
                yield field.name, f"{tuple(value.shape)} {value.dtype}"


@dataclass(frozen=True, repr=False)
class PolarResult(Measured[A]):
    """A polar decomposition A = U H and its measured quality.

    Attributes
    ----------
    u : array, (..., m, n)
        U^H U = I for m >= n, U U^H = I for m < n. A matrix of lower rank has a partial isometry: U U^H U = U, and U
        maps the null space of A to 0. NaN where the input is not finite.
    h : array, (..., n, n)
        (A^H A)^{1/2}: symmetric (Hermitian) to the last bit, positive semidefinite up to rounding.
    orthogonality : array of float64, (...)
        Of the returned (rounded) U, in float64: ``||U^H U - I||_F / sqrt(n)``; U U^H for m < n; and
        ``||U^H U - (U^H U)^2||_F / sqrt(rank)`` where the rank is lower.
    residual : array of float64, (...)
        ``||U H - A||_F / ||A||_F`` of the returned U and H, in float64.
    status, rank, cond, method, certificate
        The status is ``ILL_CONDITIONED`` where the rank is below min(m, n), and where rounding the input leaves fewer
        than two digits of U, or H is subnormal and has fewer digits than its dtype. Rank, cond, method and certificate
        are those of `SpectralResult`.
    """

    orthogonality: Array
    h: A
    u: A


@dataclass(frozen=True, repr=False)
class SpectralResult(Measured[A]):
    """A power U S^s V^H of the singular values and its measured quality.

    Attributes
    ----------
    x : array, (..., m, n)
        NaN where the input is not finite.
    exponent : Fraction
        s = a/b.
    residual : array of float64, (...)
        Of the returned (rounded) X, in float64, the larger of two: the asymmetry ``||A^H X - X^H A||_F / ||A^H X||_F``,
        and ``||(X^H X)^b - (A^H A)^a||_F / ||(A^H A)^a||_F`` for s = a/b > 0, or
        ``||(X^H X)^(b-a) (A^H X)^(2a) - I||_F / sqrt(n)`` for s = -a/b <= 0, its factors in an order whose partial
        products stay near I. (P^2 - P takes the place of P - I where the rank is below n.) For s < 0 a relative error
        of X is multiplied by up to cond^max(1, 2|s|).
    status : array of int8, (...)
        A `Status` per matrix. For s <= 0 ``ILL_CONDITIONED`` where the rank is below min(m, n), and where the residual
        is above 0.5 and vouches for nothing.
    rank : array of int, (...)
        Singular values that do not count as 0.
    cond : array of float64, (...)
        Largest over smallest of these; estimated from below where products were used.
    method : str
        ``"products"``, ``"svd"``, or both where the matrices of a batch differ.
    certificate : str
        ``"full"`` if residuals used whole products, ``"probes"`` if they were estimated from 8 random vectors.
    """

    exponent: Fraction
    x: A


@dataclass(frozen=True, repr=False)
class OrthogonalizerResult(Measured[A]):
    """Canonical orthogonalizers X = Q_k L_k^{-1/2} and their measured quality.

    Attributes
    ----------
    x : array, (..., n, k)
        k is the largest rank of the batch. A matrix of lower rank has columns of zeros at the end. Columns are in the
        order of descending eigenvalues.
    mask : array of bool, (..., k)
        True for the columns that are not padding.
    rank : array of int, (...)
        Directions kept, the columns of X.
    kept_least, dropped_most, smallest : array of float64, (...)
        The smallest eigenvalue of A that was kept, the largest that was dropped (NaN where there is none), and the
        smallest of all.
    residual : array of float64, (...)
        ``||X^H A X - I||_F / sqrt(rank)`` of the returned (rounded) X, in float64.
    cond : array of float64, (...)
        Largest eigenvalue over `kept_least`.
    status : array of int8, (...)
        A `Status` per matrix. Dropped directions are no fault: ``ILL_CONDITIONED`` means that fewer than two digits are
        certain in a direction kept, ``NOT_POSITIVE`` that an eigenvalue is negative beyond rounding and beyond the cut.
    method, certificate : str
        ``"eigen"``; ``"full"`` or ``"probes"`` as in `SpectralResult`.
    """

    mask: Array
    kept_least: Array
    dropped_most: Array
    smallest: Array
    x: A

    _sentences: ClassVar[dict[Status, str]] = _OF_OVERLAPS

    def _full_rank(self) -> int:
        return int(self.x.shape[-2])
