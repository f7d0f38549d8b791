"""The status of a matrix with its sentence, and the errors and warnings of the plain functions."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np


class Status(IntEnum):
    """Outcome of the solve for one matrix.

    Each member has a `sentence`, a format string over the relevant numbers.
    `CONVERGED` is 0, so ``result.status.any()`` is True if any matrix has another status.
    """

    CONVERGED = 0
    ILL_CONDITIONED = 1
    MAX_ITER = 2
    STAGNATED = 3
    DIVERGED = 4
    NOT_POSITIVE = 5
    NO_PRINCIPAL_ROOT = 6
    NONFINITE_INPUT = 7
    NOT_SYMMETRIC = 8
    SINGULAR = 9

    @property
    def sentence(self) -> str:
        """The outcome, the relevant number, and a remedy."""
        return _SENTENCES[self]


_SENTENCES = {
    Status.CONVERGED: "converged: residual {residual:.1e}, {digits_hold}",
    Status.ILL_CONDITIONED: ("was solved, but {loss} (residual {residual:.1e}); use {remedy}"),
    Status.MAX_ITER: (
        "not converged after {n_iter} iterations (residual {residual:.1e}, cond {cond:.1e}); "
        "raise max_iter, add a ridge, or use method='eigen'"
    ),
    Status.STAGNATED: (
        "stopped improving after {n_iter} iterations, short of the accuracy asked for (residual {residual:.1e}, "
        "cond {cond:.1e}); use {remedy}"
    ),
    Status.DIVERGED: (
        "left the range of {range_dtype} after {n_iter} iterations (cond {cond:.1e}); "
        "add a ridge, use a wider dtype, or method='eigen'"
    ),
    Status.NOT_POSITIVE: (
        "has no such root: its eigenvalues are not all positive (the smallest is {lambda_min:.1e}, the largest "
        "{lambda_max:.1e}); {mend}"
    ),
    Status.NO_PRINCIPAL_ROOT: (
        "has the eigenvalue {lambda_min:.2g} on the closed negative real axis, where no principal root exists; "
        "shift it with regularization=Ridge(absolute=...), or pass a complex matrix rotated off the axis"
    ),
    Status.NONFINITE_INPUT: "holds NaN or infinity; the input must be finite",
    Status.NOT_SYMMETRIC: (
        "is not symmetric (Hermitian): max|A - A^H| is {asymmetry:.1e} of max|A|; pass assume_a='gen' for a "
        "general matrix, or (A + A^T) / 2 if that is rounding of your own"
    ),
    Status.SINGULAR: (
        "is singular: its smallest eigenvalue, {lambda_min:.1e}, is rounding beside the largest, {lambda_max:.1e}, so "
        "that it has no inverse root; {mend}"
    ),
}

#: Statuses whose x is the root; the plain functions raise for every other status.
USABLE = (Status.CONVERGED, Status.ILL_CONDITIONED)


def place(index: int, shape: tuple[int, ...]) -> str:
    """Return the index of a matrix in its batch, as it is written after the name of an array."""
    return f"[{', '.join(str(int(i)) for i in np.unravel_index(index, shape))}]"


def counted(status: np.ndarray[Any, Any], worst: int, what: str, sentence: str) -> str:
    """Return the number of every status, with the first of each, and the sentence of the worst one."""
    if status.ndim == 0:
        return sentence
    codes, firsts, counts = np.unique(status, return_index=True, return_counts=True)
    groups = [
        f"{count} {Status(int(code)).name}" + (f" (first {place(first, status.shape)})" if code else "")
        for code, first, count in zip(codes, firsts, counts, strict=True)
    ]
    return f"{status.size} {what}: {', '.join(groups)}; {place(worst, status.shape)} {sentence}"


class RootError(np.linalg.LinAlgError):
    """A matrix of the batch has no root, or the iteration failed; the message says which matrix and why.

    Attributes
    ----------
    result : RootResult or None
        The result of the whole batch, with the roots of the other matrices.
    indices : tuple of arrays of int
        Of the failed matrices, one array for each dimension of the batch: ``a[error.indices]`` are these matrices.

    Examples
    --------
    >>> import numpy as np
    >>> import matroot
    >>> batch = np.stack([np.eye(2), np.diag([1.0, -1.0]), 4 * np.eye(2)])
    >>> try:
    ...     matroot.inv_sqrtm(batch)
    ... except matroot.RootError as error:
    ...     print(error.indices[0].tolist(), error.result.x[2, 0, 0])
    [1] 0.5
    """

    def __init__(self, message: str, result: Any = None, indices: tuple[np.ndarray[Any, Any], ...] = ()) -> None:
        super().__init__(message)
        self.result, self.indices = result, indices


class ConditionWarning(UserWarning):
    """The root was computed, but conditioning cost most of the working precision's digits."""


for _public in (RootError, ConditionWarning):  # tracebacks print where a class is
    _public.__module__ = "matroot"
