"""Regularization rules for eigenvalues too small to invert.

Every rule is a frozen dataclass. All tolerances are relative to the largest eigenvalue unless the name says
absolute, so that a rule means the same for 1e-30 A and for A. `Ridge`, `Shift` and `TargetCondition` add a multiple
of the identity and serve every method; `Floor` and `PseudoInverse` change single eigenvalues, for which `Eigen` and
`Tridiagonal` serve.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from matroot.backends.keywords import is_int, is_number

Array = Any

LARGEST = sys.float_info.max


class Coefficients(NamedTuple):
    """A rule in numbers, as compiled kernels take it.

    The shift is ``max(relative * lambda_max + absolute - smallest * lambda_min, 0)``. If `cuts`, nothing is shifted,
    and eigenvalues below ``relative * lambda_max + absolute`` are raised to it, or dropped if `drops`.
    """

    relative: float = 0.0
    absolute: float = 0.0
    smallest: float = 0.0
    cuts: bool = False
    drops: bool = False


@dataclass(frozen=True)
class Regularization:
    """Base of the rules; ``diagonal`` rules add ``shift`` to every eigenvalue."""

    #: input of `shift`: "lambda_max" or "extremes"
    needs: ClassVar[str]
    #: True for a rule that is no shift, but changes single eigenvalues
    changes_spectrum: ClassVar[bool] = False
    #: True if eigenvalue 0 stays 0 in an inverse root
    keeps_null_space: ClassVar[bool] = False

    def shift(self, largest: Array, smallest: Array, scale: Array) -> Array:
        """Return the multiple of the identity to add, for matrices divided by `scale`."""
        raise NotImplementedError

    def spectrum(self, w: Array, scale: Array) -> tuple[Array, Array]:
        """Return the new eigenvalues and the shift applied, given ascending eigenvalues w (B, n)."""
        delta = self.shift(w[..., -1], w[..., 0], scale)
        return w + delta[..., None], delta

    def coefficients(self) -> Coefficients:
        """Return the rule in numbers."""
        raise NotImplementedError

    def floor(self) -> float:
        """Return a lower bound of lambda_min / lambda_max of a regularized semidefinite matrix; 0 for none."""
        return 0.0

    def least(self, largest: Array, scale: Array) -> Array:
        """Return what no eigenvalue that is kept lies below, given the largest; 0 for none."""
        return self.floor() * largest


def _check(owner: str, **values: Any) -> None:
    for name, value in values.items():
        if not (is_number(value) and 0 <= value <= LARGEST):
            raise ValueError(f"{owner}({name}=...) must be a finite number >= 0, got {value!r}")


@dataclass(frozen=True)
class Ridge(Regularization):
    """A + (relative * lambda_max + absolute) I: the usual choice, and the only rule without extra cost.

    Every direction is damped, the small eigenvalues most; kappa is at most ``1 + 1 / relative``. Use it for
    statistics that are noisy anyway (second-order optimizers, covariances of few samples): 1e-6 for float32
    statistics, down to 1e-12 for float64.

    Parameters
    ----------
    relative : float
        Multiple of lambda_max. Under ``assume_a="gen"`` it is a multiple of the 2-norm. Iterations and the inverse of
        a large matrix, which find no eigenvalues, estimate it from below, within some 1e-3 of itself.
    absolute : float
        Added unscaled, in the units of A.
    retries : int
        While the root fails or its certificate is bad, multiply the ridge by 10 and solve again, at most this often.

    Examples
    --------
    >>> import numpy as np
    >>> from matroot import Ridge, solve
    >>> A = np.diag([1.0, 0.0])
    >>> result = solve(A, 2, regularization=Ridge(relative=1e-6))
    >>> print(result.x[1, 1].round(6), result.ridge)
    1000.0 1e-06
    """

    relative: float = 0.0
    absolute: float = 0.0
    retries: int = 0

    needs: ClassVar[str] = "lambda_max"

    def __post_init__(self) -> None:
        _check("Ridge", relative=self.relative, absolute=self.absolute)
        if not is_int(self.retries) or self.retries < 0:
            raise ValueError(f"Ridge(retries=...) must be an int >= 0, got {self.retries!r}")

    def shift(self, largest: Array, smallest: Array, scale: Array) -> Array:
        return self.relative * largest + self.absolute / scale

    def coefficients(self) -> Coefficients:
        return Coefficients(self.relative, self.absolute)

    def raised(self) -> Ridge:
        """Return the rule with ten times the ridge."""
        return Ridge(relative=10 * self.relative, absolute=10 * self.absolute, retries=self.retries)

    def floor(self) -> float:
        return self.relative / (1 + self.relative)


@dataclass(frozen=True)
class Floor(Regularization):
    """Raise the eigenvalues below relative * lambda_max + absolute to it, leaving the larger ones exact.

    Use it when the large and middle eigenvalues must not change (whitening, Loewdin orthogonalisation), and the small
    eigenvalues are noise that may keep a little weight. It makes indefinite matrices positive definite. Only the
    matrices that have such eigenvalues are decomposed. ``result.changed`` counts the eigenvalues that were raised.

    Parameters
    ----------
    relative : float
        Multiple of lambda_max.
    absolute : float
        Added unscaled, in the units of A.

    Examples
    --------
    >>> import numpy as np
    >>> from matroot import Floor, solve
    >>> result = solve(np.diag([4.0, 1.0, 0.0]), 2, regularization=Floor(absolute=0.25))
    >>> print(np.diag(result.x).round(12), result.changed)
    [0.5 1.  2. ] 1
    """

    relative: float = 0.0
    absolute: float = 0.0

    changes_spectrum: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check("Floor", relative=self.relative, absolute=self.absolute)

    def spectrum(self, w: Array, scale: Array) -> tuple[Array, Array]:
        return np.maximum(w, self.least(w[..., -1], scale)[..., None]), np.zeros_like(w[..., 0])

    def least(self, largest: Array, scale: Array) -> Array:
        return self.relative * largest + self.absolute / scale

    def coefficients(self) -> Coefficients:
        return Coefficients(self.relative, self.absolute, cuts=True)

    def floor(self) -> float:
        return self.relative


@dataclass(frozen=True)
class Shift(Regularization):
    """Shift the spectrum so that the smallest eigenvalue reaches a target; do nothing if it is above already.

    Use it to repair a matrix that rounding or averaging has made slightly indefinite. The shift is the smallest that
    reaches the target, ``relative * ||A||_2 + absolute``, and keeps the eigenvectors and the gaps.

    Parameters
    ----------
    relative : float
        Multiple of the 2-norm before the shift.
    absolute : float
        Added unscaled, in the units of A.
    """

    relative: float = 0.0
    absolute: float = 0.0

    needs: ClassVar[str] = "extremes"

    def __post_init__(self) -> None:
        _check("Shift", relative=self.relative, absolute=self.absolute)

    def shift(self, largest: Array, smallest: Array, scale: Array) -> Array:
        size = np.maximum(abs(largest), abs(smallest))
        return np.maximum(self.relative * size + self.absolute / scale - smallest, 0)

    def coefficients(self) -> Coefficients:
        return Coefficients(self.relative, self.absolute, smallest=1.0)


@dataclass(frozen=True)
class PseudoInverse(Regularization):
    """Map eigenvalues at or below rtol * lambda_max + absolute to 0 in the root and in its inverse.

    Use it when the matrix is singular by construction and the null space should stay empty: dead pixels, projected
    covariances, low-rank Gram matrices. X is then the root of the Moore-Penrose inverse. Only the matrices that have
    such eigenvalues are decomposed. ``result.changed`` counts those that were dropped, ``result.rank`` the others.

    Parameters
    ----------
    rtol : float or None
        Multiple of lambda_max; None is ``n * eps`` of the input's precision.
    absolute : float
        Added unscaled, in the units of A.

    Examples
    --------
    >>> import numpy as np
    >>> from matroot import PseudoInverse, solve
    >>> result = solve(np.diag([4.0, 1.0, 1e-20]), 2, regularization=PseudoInverse())
    >>> print(np.diag(result.x), result.rank)
    [0.5 1.  0. ] 2
    """

    rtol: float | None = None
    absolute: float = 0.0

    changes_spectrum: ClassVar[bool] = True
    keeps_null_space: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check("PseudoInverse", rtol=0.0 if self.rtol is None else self.rtol, absolute=self.absolute)

    def spectrum(self, w: Array, scale: Array) -> tuple[Array, Array]:
        cut = w.shape[-1] * np.finfo(w.dtype).eps if self.rtol is None else self.rtol
        cut = cut * np.maximum(w[..., -1], 0) + self.absolute / scale
        return np.where(w > cut[..., None], w, 0), np.zeros_like(w[..., 0])

    def coefficients(self) -> Coefficients:
        return Coefficients(self.rtol or 0.0, self.absolute, cuts=True, drops=True)


@dataclass(frozen=True)
class TargetCondition(Regularization):
    """Add the smallest ridge that reduces the condition number to kappa; do nothing if it is below already.

    Use it when the accuracy is prescribed: float32 keeps d digits of A^{-1/p} at kappa = p * 10^(7 - d). Of -c I, n = 1
    included, there is no smallest ridge: c is added, and 0 is left, whose inverse root is ``SINGULAR`` and whose root
    ``ILL_CONDITIONED``.

    Parameters
    ----------
    kappa : float
        Above 1.
    """

    kappa: float

    needs: ClassVar[str] = "extremes"

    def __post_init__(self) -> None:
        if not (is_number(self.kappa) and 1 < self.kappa <= LARGEST):
            raise ValueError(f"TargetCondition(kappa=...) must be a finite number > 1, got {self.kappa!r}")

    def shift(self, largest: Array, smallest: Array, scale: Array) -> Array:
        # (largest + d) / (smallest + d) = kappa
        return np.maximum((largest - self.kappa * smallest) / (self.kappa - 1), 0)

    def coefficients(self) -> Coefficients:
        return Coefficients(1 / (self.kappa - 1), smallest=self.kappa / (self.kappa - 1))

    def floor(self) -> float:
        return 1 / self.kappa


def as_regularization(value: Any) -> Regularization | None:
    """Convert to a rule: None and rules are kept, a float is ``Ridge(relative=value)``, and 0 is None."""
    if value is None or isinstance(value, Regularization):
        return value
    if not is_number(value):
        found = repr(value)
        if isinstance(value, type) and issubclass(value, Regularization):
            found = f"the class {value.__name__}: write {value.__name__}(...)"
        raise TypeError(
            "regularization must be None, a number (relative ridge), Ridge, Floor, Shift, PseudoInverse or "
            f"TargetCondition, got {found}"
        )
    return Ridge(relative=float(Ridge(value).relative)) if value else None
