"""What a case is: matrices that are known exactly, and the call that is made with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np

from .exact import Exact

#: Largest exponent of ten that a dtype holds with room for a few bits.
DECADES = {"float16": 3, "bfloat16": 30, "float32": 30, "complex64": 30, "float64": 300, "complex128": 300}


def numpy_dtype(name: str) -> np.dtype[Any]:
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


@dataclass(frozen=True)
class Known:
    """The power that is wanted, and how hard it is: what a verdict needs to know of one matrix."""

    #: X exactly, or in extended precision; None where there is none.
    X: Exact | np.ndarray | None
    #: Relative condition number of the map A -> A^s at A'.
    cond: float
    #: 2-norm condition number of A'.
    kappa: float
    #: Smallest eigenvalue over the largest, of A itself, which may be negative; nan for general matrices.
    share: float
    #: 2-norm of A.
    norm: float
    #: True residual of a returned root, or None where it is not computed.
    residual: Callable[[np.ndarray], float] | None = None
    #: ||A|| / ||A'||, at least 1: A is rounded before a rule, which may leave little of a negative one.
    excess: float = 1.0
    #: Whether an eigenvalue moves by n eps of the norm at most, as in a symmetric matrix: then so do small powers.
    bounded: bool = True
    #: What must not be answered with CONVERGED, and why.
    hopeless: str | None = None
    #: Whether the answer depends on rounding: nothing is asked of the status then.
    unclear: bool = False


@dataclass(frozen=True)
class Matrix:
    """A matrix in its dtype, and what is known of its power after a ridge or a rule."""

    a: np.ndarray
    kind: str
    #: (s, rule, reported ridge) -> Known
    known: Callable[[Fraction | float, Any, float], Known]


@dataclass(frozen=True)
class Case:
    """One call of `solve_power`."""

    matrices: list[Matrix]
    batch: tuple[int, ...]
    dtype: str
    s: Fraction | float
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def a(self) -> np.ndarray:
        n = self.matrices[0].a.shape[-1]
        return np.stack([m.a for m in self.matrices]).reshape(*self.batch, n, n)

    def __str__(self) -> str:
        kinds = ",".join(dict.fromkeys(m.kind for m in self.matrices))
        options = " ".join(f"{k}={v}" for k, v in self.options.items() if v is not None)
        return f"{kinds} {self.dtype}{list(self.a.shape)} s={self.s} {options}"
