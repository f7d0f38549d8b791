"""What solve asks of a method, and what a method returns."""

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
    """The facts of one call: X = A**s, how well, with what help.

    Attributes
    ----------
    s : Fraction or float
        The exponent; a float (irrational) exponent is for `Eigen` alone.
    rtol : float or None
        Relative accuracy asked for; None is the full accuracy of the compute dtype.
    max_iter : int or None
        Iteration limit; None lets the method derive its own from the arithmetic.
    floor : array (B,) or None
        A lower bound of lambda_min / lambda_max that the regularization promises.
    regularization : Regularization or None
        Still to be applied to the eigenvalues by the method; only `Eigen` sees one.
    scale : array (B,) or None
        What the stack was divided by; absolute quantities in the regularization are in the units before.
    assume_a : {"pos", "gen"}
    out_eps : float
        Unit roundoff of the precision in which the matrix came, and which the caller gets.
    """

    s: Fraction | float
    rtol: float | None = None
    max_iter: int | None = None
    floor: FloatArray | None = None
    regularization: Regularization | None = None
    scale: FloatArray | None = None
    assume_a: str = "pos"
    out_eps: float = 0.0

    @property
    def rational(self) -> Fraction:
        """The exponent as a fraction; an error for an irrational one."""
        if not isinstance(self.s, Fraction):
            raise TypeError(f"an iteration needs a rational exponent, got {self.s!r}; use method='eigen'")
        return self.s

    @property
    def p(self) -> int:
        """Degree of the root: the denominator of s."""
        return self.rational.denominator

    @property
    def inverse(self) -> bool:
        """Whether the exponent is negative."""
        return self.s < 0

    def rounding(self, A: Array) -> float:
        """How far below 0, in units of lambda_max, an eigenvalue of A may lie and count as 0: n machine epsilons.

        Of the arithmetic or of the dtype that came in, whichever is larger. The powers s > 0 of a semidefinite matrix
        exist, and no rounding of it is to deny that.
        """
        return float(A.shape[-1] * max(float(np.finfo(A.dtype).eps), 2 * self.out_eps))

    def tolerance(self, eps: float, n: int) -> float:
        """Where an iteration may stop: on ||M - I||_F, p times a bound of X's relative error."""
        full = n * eps
        return full if self.rtol is None else max(full, self.rtol / max(1.0, abs(float(self.s))))


@dataclass
class Raw:
    """What a method returns for a stack (B, n, n), before scaling back and certification.

    `cond`, `lambda_max` and `lambda_min` (of the regularized matrix) are None when the method does not know them;
    `amplification` and `jump` say how sensitive the power of a general matrix is (`schur_condition.Sensitivity`);
    `ridge` is what the method itself added to the diagonal, `changed` how it changed single eigenvalues; `hermitian`
    says that x is Hermitian to the last bit.
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
    ridge: FloatArray | None = None
    changed: Changed | None = None
    hermitian: bool = False


class Changed(NamedTuple):
    """A' = A + Q diag(delta) Q^H.

    `kept` are its eigenvalues, ascending as those of A, and at least `least` by the rule; some eigenvectors are
    `dropped`.
    """

    Q: Array
    delta: Array
    kept: Array
    least: Array
    dropped: Array


@dataclass(frozen=True, repr=False)
class Method:
    """A way to compute roots. Frozen and comparable; subclasses are ``@dataclass(frozen=True, repr=False)``.

    The repr is the call that makes it, and why it was chosen: `reason` is filled in by ``select_method`` and
    takes no part in comparisons.
    """

    name: ClassVar[str]
    #: which assume_a the method serves
    serves: ClassVar[frozenset[str]] = frozenset({"pos"})
    #: whether the opposite root comes with the root, for nothing
    gives_companion: ClassVar[bool] = False

    reason: str = field(default="", compare=False, kw_only=True)

    def refuses(self, problem: Problem, n: int) -> str | None:
        """A sentence why the method cannot do this problem, or None."""
        if problem.assume_a not in self.serves:
            other = "schur_newton" if problem.assume_a == "gen" else "eigen"
            return f"{self.name} does not serve assume_a={problem.assume_a!r}; use method={other!r} or 'auto'"
        return None

    def run(self, A: Array, problem: Problem, backend: Backend) -> Raw:
        """The root of every matrix of the stack A (B, n, n), which the method may overwrite."""
        raise NotImplementedError

    def __repr__(self) -> str:
        options = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if f.name != "reason")
        return f"{type(self).__name__}({options})" + (f"  # {self.reason}" if self.reason else "")


def iterative_refusal(problem: Problem) -> str | None:
    """Why an iteration on products cannot do this problem: it needs a rational exponent."""
    if not isinstance(problem.s, Fraction):
        return f"exponent {problem.s!r} is not a ratio of integers below 1024; use method='eigen'"
    return None
