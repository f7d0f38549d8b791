"""What a solve returns: the root, how good it is, and a sentence for people.

Status codes own their sentences, so that the message is part of the result and not of a log.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from enum import IntEnum
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from matroot.engines.arrays import dtype_name, unit_roundoff

if TYPE_CHECKING:
    from matroot.methods.base import Method

Array = Any


class Status(IntEnum):
    """How the root of one matrix ended.

    Each member owns its `sentence`, a format string over the numbers that matter.
    `CONVERGED` is 0, so ``result.status.any()`` is "did anything go wrong".
    """

    CONVERGED = 0
    ILL_CONDITIONED = 1
    MAX_ITER = 2
    STAGNATED = 3
    DIVERGED = 4
    NOT_POSITIVE = 5
    NO_PRINCIPAL_ROOT = 6
    NONFINITE_INPUT = 7

    @property
    def sentence(self) -> str:
        """What happened, the number that matters, and what to do."""
        return _SENTENCES[self]


_SENTENCES = {
    Status.CONVERGED: "converged: residual {residual:.1e}, {digits_hold}",
    Status.ILL_CONDITIONED: (
        "ended well, but at cond {cond:.1e} rounding costs {bits_lost:.0f} of the {bits} bits of {compute_dtype}: "
        "{digits_left} (residual {residual:.1e}); use {remedy}"
    ),
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
        "has an eigenvalue on the closed negative real axis, where no principal root exists; "
        "shift it with regularization=Ridge(absolute=...), or pass a complex matrix rotated off the axis"
    ),
    Status.NONFINITE_INPUT: "holds NaN or infinity; the input must be finite",
}

_NUMBERS = ("residual", "cond", "bits_lost", "lambda_max", "lambda_min")

#: Statuses whose x is the answer; every other is an error for the plain functions.
USABLE = (Status.CONVERGED, Status.ILL_CONDITIONED)


class RootError(np.linalg.LinAlgError):
    """A matrix of the batch has no root, or the iteration failed; the message says which and why."""


class ConditionWarning(UserWarning):
    """The root was computed, but conditioning cost most of the working precision's digits."""


@dataclass(frozen=True, repr=False)
class RootResult:
    """A matrix root and everything known about its quality.

    Attributes
    ----------
    x : array, (..., n, n)
        The root, of the kind, dtype and device of the input. NaN where no root exists.
    companion : array or None, (..., n, n)
        The opposite root (A^{1/p} beside A^{-1/p}) when the method has it for nothing.
    status : array of int8, (...)
        A `Status` per matrix; 0 is ``CONVERGED``.
    residual : array of float64, (...)
        ``||X^b A'^a - I||_F / sqrt(n)`` for exponent -a/b, ``||X^b - A'^a||_F / ||A'^a||_F`` for a/b, of the
        returned (rounded) X against the regularized input A', evaluated in float64.
    cond : array of float64, (...)
        2-norm condition number of A'; exact for `Eigen`, an estimate (a lower bound) elsewhere.
    bits_lost : array of float64, (...)
        ``log2(cond / p)``, at least 0: what the conditioning of A -> A^{-1/p} costs. Under ``assume_a="gen"`` log2
        of the condition number of A -> A^s, a bound that takes in the coupling of eigenvectors and how near
        eigenvalues are to the negative axis, where the root jumps.
    n_iter : array of int, (...)
        Iterations; 0 for a direct method.
    n_products : int
        n-by-n products issued for one matrix, the largest of the batch.
    lambda_max : array of float64, (...)
        Largest eigenvalue of A (2-norm under ``assume_a="gen"``), before regularization.
    lambda_min : array of float64, (...)
        Smallest eigenvalue of A', exact for `Eigen` and where the status is NOT_POSITIVE, else estimated.
    ridge : array of float64, (...)
        What was added to the diagonal, absolute.
    method : Method
        What ran, with its options; its repr says why it was chosen.
    compute_dtype : str
        The precision of the arithmetic.
    certificate : str
        ``"full"`` when `residual` used whole products, ``"probes"`` when it was estimated from random vectors
        (see `matroot.conditioning.residual`).
    exponent : Fraction or float
        s of X = A'^s.
    """

    x: Array
    companion: Array | None
    status: Array
    residual: Array
    cond: Array
    bits_lost: Array
    n_iter: Array
    n_products: int
    lambda_max: Array
    lambda_min: Array
    ridge: Array
    method: Method
    compute_dtype: str
    certificate: str
    exponent: Fraction | float

    @property
    def converged(self) -> Array:
        """Boolean array (...): status is ``CONVERGED``."""
        return self.status == int(Status.CONVERGED)

    def sentence(self, index: int) -> str:
        """The status sentence of one matrix of the flattened batch, with its numbers."""
        at = {f: float(on_host(getattr(self, f)).ravel()[index]) for f in _NUMBERS}
        eps = unit_roundoff(self.compute_dtype)
        out_eps = unit_roundoff(dtype_name(self.x.dtype))
        if self.method.name == "schur_newton":  # for general matrices cond says little about their roots
            digits = max(0.0, -math.log10(max(eps, out_eps)) - math.log10(2.0) * at["bits_lost"])
        else:
            digits = digits_left(at["cond"], float(self.exponent), eps, out_eps)
        status = Status(int(on_host(self.status).ravel()[index]))
        # For a positive exponent the residual is the error, about; else it is larger, but for cond unexplained.
        if at["residual"] > 0 and (status is Status.ILL_CONDITIONED or self.exponent > 0):
            digits = min(digits, max(0.0, -math.log10(at["residual"])))
        numbers = {
            **at,
            "digits_hold": f"{_about(digits, 'holds', 'hold')} at cond {at['cond']:.1e}",
            "digits_left": _about(digits, "is left", "are left"),
            "bits": round(-math.log2(eps)),
            "compute_dtype": self.compute_dtype,
            "range_dtype": dtype_name(self.x.dtype) if out_eps > eps else self.compute_dtype,
            "n_iter": int(on_host(self.n_iter).ravel()[index]),
            "remedy": self._remedy(eps, at["cond"], at["bits_lost"]),
            "mend": "add a ridge above that size, or use Floor, Shift or PseudoInverse"
            if at["lambda_max"] != 0
            else "only Ridge(absolute=...), Shift(absolute=...) or PseudoInverse helps",
        }
        return status.sentence.format(**numbers)

    def _remedy(self, eps: float, cond: float, bits_lost: float) -> str:
        if self.method.name == "schur_newton" and bits_lost > 3 + math.log2(max(1.0, cond * abs(float(self.exponent)))):
            return (
                "data with more digits, or another matrix: eigenvalues near the negative real axis, where roots jump, "
                "or eigenvectors that are nearly dependent cost these"
            )
        # The ridge that leaves two digits: eps |s| / ridge = 1e-2.
        ridge = 10.0 ** math.ceil(math.log10(100 * eps * abs(float(self.exponent)) or 1.0))
        wider = "" if self.compute_dtype in ("float64", "complex128") else "compute_dtype='float64', or "
        return f"{wider}a ridge of {ridge:.0e}"

    @property
    def message(self) -> str:
        """One line: the sentence of the worst matrix, and how many ended like it."""
        status = on_host(self.status).ravel()
        if status.size == 0:
            return "empty batch"
        worst = int(np.argmax(status)) if status.any() else int(np.argmax(on_host(self.residual).ravel()))
        text = self.sentence(worst)
        if status.size == 1:
            return text
        name = Status(int(status[worst])).name
        count = int((status == status[worst]).sum())
        return f"{count} of {status.size} matrices {name}; matrix {worst} {text}"

    def __repr__(self) -> str:
        rows = [("message", self.message)]
        for field in fields(self):
            value = getattr(self, field.name)
            rows.append((field.name, _summary(field.name, value)))
        width = max(len(name) for name, _ in rows)
        return "RootResult\n" + "\n".join(f"  {name:>{width}}: {text}" for name, text in rows)


def digits_left(cond: float, s: float, eps: float, out_eps: float) -> float:
    """Decimal digits of A^s that computing with `eps` and rounding to `out_eps` leave."""
    if s <= 0:
        error = eps * max(1.0, cond * -s)
    else:  # a root of a singular matrix keeps some: an eigenvalue is never further off than eps lambda_max
        error = max(eps, min(eps * s * cond ** max(0.0, 1 - s), eps ** min(s, 1.0)))
    return max(0.0, -math.log10(max(error, out_eps))) if error < 1 else 0.0


def _about(digits: float, one: str, many: str) -> str:
    count = round(digits)
    return f"about {count} digit {one}" if count == 1 else f"about {count} digits {many}"


def on_host(values: Array) -> np.ndarray:
    """A small array of any kind, read on the host."""
    get = getattr(values, "get", None)
    if get is not None and not isinstance(values, np.ndarray):
        return np.asarray(get())
    cpu = getattr(values, "cpu", None)
    if cpu is not None:
        return np.asarray(cpu())
    if isinstance(values, np.ndarray):
        return values
    return np.asarray(values) if hasattr(values, "__array__") else np.from_dlpack(values)


def _summary(name: str, value: Array) -> str:
    if value is None or isinstance(value, str | int | float | Fraction) or name == "method":
        return str(value)
    if name in ("x", "companion"):
        return f"{tuple(value.shape)} {value.dtype}"
    flat = on_host(value).ravel()
    if name == "status":
        names = {Status(int(code)).name: int((flat == code).sum()) for code in np.unique(flat)}
        return ", ".join(f"{key} {count}" if flat.size > 1 else key for key, count in names.items())
    if flat.size == 0:
        return "[]"
    form = "{:d}" if flat.dtype.kind in "iu" else "{:.3g}"
    if flat.size == 1:
        return form.format(flat[0])
    low, high = form.format(flat.min()), form.format(flat.max())
    return low if low == high else f"{low} to {high}"
