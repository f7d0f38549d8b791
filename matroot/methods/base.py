"""The interface of a method: its input `Problem`, its output `Raw`, and the base class `Method`."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from matroot.backends.base import Backend

if TYPE_CHECKING:
    from matroot._regularization import Regularization

Array = Any
FloatArray = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Problem:
    """The problem that a method solves: X = A**s, with the accuracy and the regularization requested."""

    #: a float (irrational) exponent is for `Eigen` alone
    s: Fraction | float
    #: None is the full accuracy of the compute dtype
    rtol: float | None = None
    #: None lets the method derive its own limit from the arithmetic
    max_iter: int | None = None
    #: (B,), lower bounds of lambda_min / lambda_max due to the regularization
    floor: FloatArray | None = None
    #: the rule that the method has to apply to the eigenvalues; None except for `Eigen`
    regularization: Regularization | None = None
    #: (B,), divisors of the stack; absolute quantities in the regularization are in the original units
    scale: FloatArray | None = None
    assume_a: str = "pos"
    #: unit roundoff of the dtype of the input, which is that of the output
    out_eps: float = 0.0
    #: (B,), max|A - A^H| / max|A| of the input, before it was made symmetric
    asymmetry: FloatArray | None = None

    @property
    def rational(self) -> Fraction:
        """The exponent as a fraction; raises if it is irrational."""
        if not isinstance(self.s, Fraction):
            raise TypeError(f"an iteration needs a rational exponent, got {self.s!r}; use method='eigen'")
        return self.s

    @property
    def p(self) -> int:
        """Degree of the root: the denominator of s."""
        return self.rational.denominator

    @property
    def inverse(self) -> bool:
        """True if the exponent is negative."""
        return self.s < 0

    def rounding(self, A: Array) -> Any:
        """Return the size, in units of lambda_max, up to which a negative eigenvalue of A counts as 0.

        It is n machine epsilons of the arithmetic or of the input's dtype, whichever is larger, and n / 2 times the
        asymmetry. The powers s > 0 of a semidefinite matrix exist, and rounding should not make them fail.
        """
        n, asymmetry = A.shape[-1], 0.0 if self.asymmetry is None else self.asymmetry
        return self.noise(n, A.dtype) + n * asymmetry / 2

    def noise(self, n: int, dtype: Any) -> float:
        """Return what `rounding` is for a symmetric matrix."""
        return n * max(float(np.finfo(dtype).eps), 2 * self.out_eps)

    def tolerance(self, eps: float, n: int) -> float:
        """Return the value of ||M - I||_F, p times a bound of X's relative error, at which an iteration may stop."""
        full = n * eps
        return full if self.rtol is None else max(full, self.rtol / max(1.0, abs(float(self.s))))


@dataclass
class Raw:
    """Result of a method for a stack (B, n, n), before scaling back and certification.

    `cond`, `lambda_max` and `lambda_min` (of the regularized matrix) are None if the method does not compute them.
    `amplification` and `jump` are the sensitivity of the power of a general matrix (`schur_condition.Sensitivity`).
    `rank` counts the eigenvalues of a general matrix that were not taken for 0.
    `ridge` is the multiple of I that the method added, and `changed` its change of single eigenvalues. `hermitian` is
    True if x is Hermitian to the last bit. `negative` is a power of A with its negative exponent, which gives the
    smallest eigenvalue.
    """

    x: Array
    status: np.ndarray
    n_iter: np.ndarray
    n_products: int
    companion: Array | None = None
    cond: FloatArray | None = None
    lambda_max: FloatArray | None = None
    lambda_min: FloatArray | None = None
    amplification: FloatArray | None = None
    jump: FloatArray | None = None
    rank: np.ndarray | None = None
    ridge: FloatArray | None = None
    changed: Changed | None = None
    hermitian: bool = False
    negative: tuple[Array, float] | None = None


class Changed(NamedTuple):
    """A' = A + Q diag(delta) Q^H.

    `kept` are the eigenvalues of A', in the ascending order of those of A, and at least `least` by the rule; `dropped`
    marks the eigenvectors that are removed.
    """

    Q: Array
    delta: Array
    kept: Array
    least: Array
    dropped: Array

    def number(self) -> Array:
        """Return how many eigenvalues of each matrix were changed."""
        return ((self.delta != 0) | self.dropped).sum(-1)


@dataclass(frozen=True, repr=False)
class Method:
    """Base of the methods. Frozen and comparable; subclasses are ``@dataclass(frozen=True, repr=False)``.

    The repr is the call that creates the method, and the `reason` for choosing it. ``select_method`` sets `reason`,
    which is ignored in comparisons.
    """

    name: ClassVar[str]
    #: values of assume_a that the method supports
    serves: ClassVar[frozenset[str]] = frozenset({"pos"})
    #: True if the method computes the opposite root along with the root
    gives_companion: ClassVar[bool] = False
    #: True if the method decomposes the matrices, and applies every rule to their eigenvalues itself
    decomposes: ClassVar[bool] = False
    #: True if `run` reads no values of the arrays where ``backend.sync_free()``
    on_device: ClassVar[bool] = False

    reason: str = field(default="", compare=False, kw_only=True)

    def refuses(self, problem: Problem, n: int) -> str | None:
        """Return a sentence why the method does not support this problem, or None."""
        if problem.assume_a not in self.serves:
            other = "schur_newton" if problem.assume_a == "gen" else "eigen"
            return f"{self.name} does not serve assume_a={problem.assume_a!r}; use method={other!r} or 'auto'"
        return None

    def run(self, A: Array, problem: Problem, backend: Backend) -> Raw:
        """Compute the root of every matrix of the stack A (B, n, n); A may be overwritten."""
        raise NotImplementedError

    def __repr__(self) -> str:
        options = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if f.name != "reason")
        return f"{type(self).__name__}({options})" + (f"  # {self.reason}" if self.reason else "")


def iterative_refusal(problem: Problem) -> str | None:
    """Return why an iteration on products does not support this problem: it needs a rational exponent; or None."""
    if not isinstance(problem.s, Fraction):
        return f"exponent {problem.s!r} is not a ratio of integers below 1024; use method='eigen'"
    return None
