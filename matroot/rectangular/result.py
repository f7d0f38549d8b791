"""Results of `polar` and `spectral_power`, and their sentences."""

from __future__ import annotations

from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any, Generic

import numpy as np

from matroot._result import A, Status, on_host

Array = Any

_SENTENCES = {
    Status.CONVERGED: "converged: residual {residual:.1e}, rank {rank} at cond {cond:.1e}",
    Status.ILL_CONDITIONED: (
        "is determined by few digits of the input: rank {rank} of {n}, cond {cond:.1e} (residual {residual:.1e}); "
        "singular values that rounding may have made count as 0, and rtol=... sets another cut"
    ),
    Status.STAGNATED: (
        "has a residual of {residual:.1e}, more than rounding explains at cond {cond:.1e}; use method='svd'"
    ),
    Status.DIVERGED: "has left the range of its dtype, or the SVD has failed (cond {cond:.1e})",
    Status.NONFINITE_INPUT: "holds NaN or infinity; the input must be finite",
}


@dataclass(frozen=True, repr=False)
class Measured(Generic[A]):
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

    @property
    def converged(self) -> Array:
        """Boolean array (...), True where the status is ``CONVERGED``."""
        return self.status == int(Status.CONVERGED)

    def sentence(self, index: int) -> str:
        """Return the status sentence of one matrix of the flattened batch, with its numbers."""
        at = {name: on_host(getattr(self, name)).ravel()[index] for name in ("residual", "cond", "rank")}
        return _SENTENCES[Status(int(on_host(self.status).ravel()[index]))].format(**at, n=self._full_rank())

    def _full_rank(self) -> int:
        first = getattr(self, fields(self)[-1].name)
        return int(min(first.shape[-2:]))

    @property
    def message(self) -> str:
        """One line: the sentence of the worst matrix, and the number of matrices with the same status."""
        status = on_host(self.status).ravel()
        if status.size == 0:
            return "empty batch"
        worst = int(np.argmax(status)) if status.any() else int(np.argmax(on_host(self.residual).ravel()))
        text = self.sentence(worst)
        if status.size == 1:
            return text
        count = int((status == status[worst]).sum())
        return f"{count} of {status.size} matrices {Status(int(status[worst])).name}; matrix {worst} {text}"

    def __repr__(self) -> str:
        rows = [("message", self.message)]
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str | int | float | Fraction):
                rows.append((field.name, str(value)))
            elif len(value.shape) >= 2 and field.name in ("u", "h", "x"):
                rows.append((field.name, f"{tuple(value.shape)} {value.dtype}"))
        width = max(len(name) for name, _ in rows)
        return f"{type(self).__name__}\n" + "\n".join(f"  {name:>{width}}: {text}" for name, text in rows)


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
        than two digits of U. Rank, cond, method and certificate are those of `SpectralResult`.
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
        ``||(X^H X)^(b-a) (A^H X)^(2a) - I||_F / sqrt(n)`` for s = -a/b <= 0. (P^2 - P takes the place of P - I where
        the rank is below n.) For s < 0 a relative error of X is multiplied by up to cond^2.
    status : array of int8, (...)
        A `Status` per matrix. For s <= 0 ``ILL_CONDITIONED`` where the rank is below min(m, n).
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
