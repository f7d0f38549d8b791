"""The result of `solve_apply`: A^s B, and a bound of its error for every column."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Generic

import numpy as np

from matroot._bars import forward_error_bound
from matroot._result import A, Result, on_host
from matroot._status import Status
from matroot.backends.arrays import dtype_name, unit_roundoff

Array = Any

_SENTENCES = {
    Status.CONVERGED: "converged: relative error at most {error:.1e} ({certificate})",
    Status.ILL_CONDITIONED: (
        "was solved, but at cond {cond:.1e} rounding may cost a relative error of {lost:.1e} in {dtype}; add a ridge, "
        "or use a wider dtype or a larger rtol"
    ),
    Status.MAX_ITER: (
        "not converged after {n_iter} iterations (relative error up to {error:.1e}, cond {cond:.1e}); raise max_iter, "
        "add a ridge, or use method='poles' for a sparse matrix"
    ),
    Status.STAGNATED: "has a relative error of up to {error:.1e}, more than was asked for; use another method",
    Status.DIVERGED: "left the range of its dtype; use a wider one",
    Status.NOT_POSITIVE: (
        "has no such root: the eigenvalues of A are not all positive (the smallest is about {lambda_min:.1e}, the "
        "largest {lambda_max:.1e}); add a ridge"
    ),
    Status.SINGULAR: (
        "has no such root: the smallest eigenvalue of A, {lambda_min:.1e}, is rounding beside the largest, "
        "{lambda_max:.1e}; add a ridge"
    ),
    Status.NONFINITE_INPUT: "A, its product or the column of b holds NaN or infinity",
    Status.NOT_SYMMETRIC: "A is not symmetric (Hermitian)",
}


@dataclass(frozen=True, repr=False)
class ApplyResult(Result, Generic[A]):
    """A power of a matrix times vectors, with a bound of the error of every column.

    Attributes
    ----------
    x : array, (..., n, m) or (..., n)
        A'^s B, of the kind and device of B. NaN where the status says that there is none.
    status : array of int8, (..., m) or (...)
        A `Status` per column; 0 is ``CONVERGED``.
    error : array of float64, (..., m) or (...)
        Bound of ``||x - A'^s b|| / ||A'^s b||``, in the sense of `certificate`; rounding is counted.
    certificate : str
        ``"bound"``: it holds, given a lower bound of the eigenvalues, which is `lambda_min`, a ridge added to a
        semidefinite matrix, or confirmed by the signs of the pivots of a factorization. ``"estimate"``: the smallest
        Ritz value stands for the smallest eigenvalue, which it cannot be below. ``"probes"``: from the eigenvectors of
        a dense matrix, whose error was measured on 8 random vectors.
    lambda_min, lambda_max, cond : array of float64, (...)
        Smallest and largest eigenvalue of A', exact for ``"eigen"``, else estimated; and their ratio.
    ridge : array of float64, (...)
        The multiple of the identity that was added.
    n_iter : int
        Steps of Lanczos, or shifted systems solved.
    n_products : int
        Products of A with one vector, those of the second pass and of the certificate included.
    n_factorizations : int
    method : str
        ``"lanczos"``, ``"poles"`` or ``"eigen"``.
    exponent : Fraction or float
        s.
    rtol : float or None
        The accuracy requested.
    """

    x: A
    status: Array
    error: Array
    certificate: str
    lambda_min: Array
    lambda_max: Array
    cond: Array
    ridge: Array
    n_iter: int
    n_products: int
    n_factorizations: int
    method: str
    exponent: Fraction | float
    rtol: float | None

    _parts: ClassVar[str] = "columns"
    _error: ClassVar[str] = "error"

    def sentence(self, index: int) -> str:
        """Return one line about a column, of all columns in their order."""
        shape = self.status.shape
        numbers = {"error": self._host("error").ravel()[index]}
        for name in ("cond", "lambda_min", "lambda_max"):
            of_matrices = self._host(name)
            of_columns = of_matrices[..., None] if of_matrices.ndim < len(shape) else of_matrices
            numbers[name] = np.broadcast_to(of_columns, shape).ravel()[index]
        name = dtype_name(self.x.dtype)
        lost = forward_error_bound(np.float64(numbers["cond"]), self.exponent, unit_roundoff(name))
        numbers["lost"] = np.fmax(lost, numbers["error"])
        text = _SENTENCES[Status(int(self._host("status").ravel()[index]))]
        return text.format(**numbers, n_iter=self.n_iter, certificate=self.certificate, dtype=name)

    def _host(self, name: str) -> np.ndarray[Any, Any]:
        return np.asarray(on_host(getattr(self, name)))
