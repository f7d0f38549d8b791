"""The result of a solve: the root, its certified quality, and a status with a sentence.

Every status code has its sentence, so that the message is part of the result and not of a log.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeVar, cast

import numpy as np

from matroot._bars import (
    ILL_INPUT_ERROR,
    VOUCHED,
    about,
    decomposed_share,
    digits_left,
    least_rtol,
    left_by_shift,
    smallest_share,
)
from matroot._status import USABLE, Status, counted
from matroot.backends.arrays import HALVES, dtype_name, smallest_normal, take, unit_roundoff

if TYPE_CHECKING:
    from matroot.methods.base import Method

Array = Any

_NUMBERS = ("residual", "cond", "bits_lost", "lambda_max", "lambda_min", "ridge")

#: Unit roundoff of the least precise dtype that iterates are kept in.
FLOAT32 = unit_roundoff("float32")


class AnyArray(Protocol):
    """The attributes that a type checker must know of an array of any library."""

    @property
    def shape(self) -> Any: ...

    @property
    def dtype(self) -> Any: ...


#: An array of the caller: the result is of the same kind as the input.
A = TypeVar("A", bound=AnyArray)


class Result:
    """Base of the results: their length, their message, and how they are printed."""

    status: Array

    #: what has a status each
    _parts: ClassVar[str] = "matrices"
    #: the field whose largest value says which of these is the worst, where all have converged
    _error: ClassVar[str] = "residual"

    @property
    def converged(self) -> Array:
        """Boolean array (...), True where the status is ``CONVERGED``."""
        return self.status == int(Status.CONVERGED)

    def __len__(self) -> int:
        return len(self.status)

    def __array__(self, *args: Any, **options: Any) -> None:  # no array, so that type checkers take it for none
        name = "u" if hasattr(self, "u") else "x"
        raise TypeError(f"a {type(self).__name__} is no array; its array is result.{name}")

    def sentence(self, index: int) -> str:
        """Return the status sentence of one matrix of the flattened batch, with its numbers."""
        raise NotImplementedError

    @property
    def message(self) -> str:
        """The number of matrices of every status, with the first of each, and the sentence of the worst matrix."""
        status = on_host(self.status)
        if status.size == 0:
            return "empty batch"
        worst = int(np.argmax(status if status.any() else on_host(getattr(self, self._error))))
        return counted(status, worst, self._parts, self.sentence(worst))

    def _lines(self) -> Iterator[tuple[str, str]]:
        """Yield the names of the fields that are printed, and their values."""
        for one in fields(cast(Any, self)):
            yield one.name, _shortened(one.name, getattr(self, one.name))

    def __repr__(self) -> str:
        lines = [("message", self.message), *self._lines()]
        width = max(len(name) for name, _ in lines)
        return f"{type(self).__name__}\n" + "\n".join(f"  {name:>{width}}: {text}" for name, text in lines)


class OfBatch(Result):
    """Base of the results that can be indexed like the batch, and iterated over."""

    #: dimensions of a field beyond those of the batch
    _inner: ClassVar[dict[str, int]] = {"x": 2, "companion": 2, "u": 2, "h": 2, "mask": 1}

    def __getitem__(self, index: Any) -> Self:
        """Return the result of some matrices; `index` is that of an array with the shape of the batch."""
        self.status[index]  # which raises for what is no index of the batch
        given = index if isinstance(index, tuple) else (index,)
        one: Any = self
        changes = {}
        for name in (f.name for f in fields(one)):
            values = getattr(self, name)
            if hasattr(values, "shape"):
                changes[name] = values[(*given, *[slice(None)] * self._inner.get(name, 0))]
        return cast(Self, replace(one, **changes))

    def __iter__(self) -> Iterator[Self]:
        if self.status.ndim == 0:  # without this, Python would find the end of a sequence at its first index
            x = "u" if hasattr(self, "u") else "x"
            raise TypeError(f"the {type(self).__name__} of one matrix is no sequence; its array is result.{x}")
        return (self[index] for index in range(len(self)))


@dataclass(frozen=True, repr=False)
class RootResult(OfBatch, Generic[A]):
    """A matrix root and its measured quality.

    The result of a batch has a length and can be indexed like the batch: ``result[3]`` is that of one matrix,
    ``result[result.status != 0]`` that of the matrices that need a look.

    Attributes
    ----------
    x : array, (..., n, n)
        The root, of the kind, dtype and device of the input. NaN where no root exists.
    companion : array or None, (..., n, n)
        The opposite root (A^{1/p} beside A^{-1/p}) when the method computes both.
    status : array of int8, (...)
        A `Status` per matrix; 0 is ``CONVERGED``.
    residual : array of float64, (...)
        Of the returned (rounded) X against the regularized input A', evaluated in float64:
        ``||X^p A' - I||_F / sqrt(n)`` for s = -1/p, and ``||X^b - A'^(s b)||_F / ||A'^(s b)||_F`` for every other
        exponent s, with b its denominator, or 1 where it is no ratio of small integers.
    cond : array of float64, (...)
        2-norm condition number of A'; exact for `Eigen`, an estimate (a lower bound) elsewhere.
    bits_lost : array of float64, (...)
        ``log2(cond / p)``, at least 0: the bits lost to the conditioning of A -> A^{-1/p}, out of the bits of the
        input or of the arithmetic, whichever are fewer. Under ``assume_a="gen"`` log2 of the condition number of
        A -> A^s. It is a bound that includes the coupling of eigenvectors and the distance of the eigenvalues from
        the negative axis, where the root jumps.
    n_iter : array of int, (...)
        Iterations; 0 for a direct method.
    n_products : int
        n-by-n products issued for one matrix, the largest of the batch.
    lambda_max : array of float64, (...)
        Largest eigenvalue of A (2-norm under ``assume_a="gen"``), before regularization; of a method that finds no
        eigenvalues an estimate from below, within some 1e-3 of itself.
    lambda_min : array of float64, (...)
        Smallest eigenvalue of A', exact for `Eigen` and where the status is NOT_POSITIVE, else estimated. Under
        ``assume_a="gen"`` the smallest singular value; where the status is NO_PRINCIPAL_ROOT, the eigenvalue that is on
        the closed negative real axis, 0 if A' is singular and no other one is.
    ridge : array of float64, (...)
        The multiple of the identity that was added, absolute.
    method : Method
        The method used, with its options; its repr gives the reason for the choice.
    compute_dtype : str
        The precision of the arithmetic, of second attempts if there were any; a single precision if it was used for a
        part of the work.
    certificate : str
        ``"full"`` when `residual` used whole products, ``"probes"`` when it was estimated from random vectors
        (see `matroot.methods.conditioning.residual`).
    exponent : Fraction or float
        s of X = A'^s.
    rtol : float or None
        The accuracy requested.
    changed : array of int, (...), or None
        How many eigenvalues `Floor` has raised, or `PseudoInverse` has dropped; None for other rules.
    rank : array of int, (...), or None
        How many eigenvalues `PseudoInverse` has kept, or, under ``assume_a="gen"`` for positive exponents, how many
        were not taken for 0; None otherwise.
    asymmetry : array of float64, (...), or None
        ``max|A - A^H| / max|A|`` under ``assume_a="pos"``. (A + A^H) / 2 is used up to the larger of 8e-6 and the
        square root of the unit roundoff of the dtype, and the digits that the asymmetry costs are counted as lost.
    """

    x: A
    companion: A | None
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
    rtol: float | None
    changed: Array | None = field(default=None, kw_only=True)
    rank: Array | None = field(default=None, kw_only=True)
    asymmetry: Array | None = field(default=None, kw_only=True)

    def sentence(self, index: int) -> str:
        at = {f: float(on_host(getattr(self, f)).ravel()[index]) for f in _NUMBERS}
        n, name = self.x.shape[-1], dtype_name(self.x.dtype)
        arithmetic, given = unit_roundoff(self.compute_dtype), unit_roundoff(name)
        faint = name in HALVES and 0 < at["lambda_max"] < smallest_normal(name)
        if faint:  # numbers below the normal range have few digits
            given *= smallest_normal(name) / at["lambda_max"]
        uneven = 0.0 if self.asymmetry is None else float(on_host(self.asymmetry).ravel()[index])
        # A matrix that came in float32 has float32's digits, whatever the arithmetic, and asymmetry is an error too.
        spared = left_by_shift(at["lambda_max"], at["lambda_min"], at["ridge"])
        eps = max(arithmetic, given, uneven) / spared if spared else math.inf
        if self.method.name == "schur_newton":  # for general matrices cond says little about their roots
            digits = max(0.0, -math.log10(eps) - math.log10(2.0) * at["bits_lost"])
        else:
            share = decomposed_share(n, 2 * min(arithmetic, FLOAT32))
            digits = digits_left(at["cond"], float(self.exponent), eps, share)
        status = Status(int(on_host(self.status).ravel()[index]))
        # The residual is about the error of positive powers, and where an rtol ends early; else it may be larger.
        if at["residual"] > 0 and (status is Status.ILL_CONDITIONED or self.exponent > 0 or self.rtol is not None):
            digits = min(digits, max(0.0, -math.log10(at["residual"])))
        numbers = {
            **at,
            "asymmetry": uneven,
            "digits_hold": f"{about(digits, 'holds', 'hold')} at cond {at['cond']:.1e}",
            "loss": self._loss(at, digits, eps, n, spared),
            "range_dtype": name if given > arithmetic else self.compute_dtype,
            "n_iter": int(on_host(self.n_iter).ravel()[index]),
            "remedy": "a matrix that is scaled up before it is rounded"
            if faint
            else "Ridge(absolute=...) or Shift(...) that leaves more"
            if spared < 1
            else self._remedy(at["cond"], at["bits_lost"], arithmetic, max(given, uneven)),
            "mend": self._mend(status, at["lambda_max"]),
        }
        sentence = status.sentence
        if status is Status.SINGULAR and at["lambda_max"] == 0:
            sentence = "is zero, so that it has no inverse root; {mend}"
        return sentence.format(**numbers) + self._zeros(index) + self._negative(index)

    def _mend(self, status: Status, largest: float) -> str:
        """Suggest rules for a matrix that is not positive definite."""
        if largest == 0:
            return "only regularization=Ridge(absolute=...), Shift(absolute=...) or PseudoInverse() helps"
        if status is Status.SINGULAR:
            wider = "use compute_dtype='float64', or " if unit_roundoff(self.compute_dtype) > 2.0**-53 else ""
            return (
                f"{wider}drop such eigenvalues with regularization=PseudoInverse(), or raise them with Ridge(...), "
                "Floor(...) or Shift(...)"
            )
        return "use regularization=Ridge(absolute=...) above that size, Floor(...), Shift(...) or PseudoInverse()"

    def _zeros(self, index: int) -> str:
        """Say which eigenvalues were taken for 0."""
        n = self.x.shape[-1]
        if self.rank is None or self.method.name != "schur_newton":
            return ""
        rank = int(on_host(self.rank).ravel()[index])
        status = Status(int(on_host(self.status).ravel()[index]))
        if rank == n or status not in (*USABLE, Status.NO_PRINCIPAL_ROOT):
            return ""
        if status is Status.NO_PRINCIPAL_ROOT:
            return f" (0 has a Jordan block: the matrix has rank {rank} of {n}, and its square a lower one)"
        zeros = f"; {n - rank} of {n} eigenvalues count as 0"
        return f"{zeros} (digits are counted for zeros known up to rounding; if they are exact, more hold)"

    def _negative(self, index: int) -> str:
        """Say that the root of a stochastic matrix is not stochastic: the rows of both add up to 1."""
        n = self.x.shape[-1]
        if self.method.name != "schur_newton" or not self.exponent > 0 or n < 2:
            return ""
        x: Any = self.x
        values, _ = take(x.detach() if hasattr(x, "detach") else x)
        X = values.reshape(-1, n, n)[index].astype(np.complex128)
        rounding = 1000 * n * unit_roundoff(dtype_name(self.x.dtype))
        least = float(X.real.min())
        if X.imag.any() or not (abs(X.sum(-1) - 1).max() <= rounding and least < -rounding):
            return ""
        return f"; its rows add up to 1, but entries down to {least:.1e} are no probabilities: see stochastic_root"

    def _loss(self, at: dict[str, float], digits: float, eps: float, n: int, spared: float) -> str:
        """Explain why a root is less accurate than requested."""
        name = dtype_name(self.x.dtype)
        end = at["lambda_min"] if self.exponent < 0 else at["lambda_max"] + at["ridge"]
        if end > 0 and float(self.exponent) * math.log2(end) < math.log2(n * smallest_normal(name)):
            return f"the root leaves the normal range of {name}, below which digits get lost"
        if name in HALVES and 0 < at["lambda_max"] < smallest_normal(name):
            return f"the matrix lies below the normal range of {name}, where numbers have few digits"
        machine = min(unit_roundoff(self.compute_dtype), FLOAT32)  # products alone round to tf32 or bfloat16
        least = least_rtol(machine, unit_roundoff(name), n)
        if spared < 1:
            return f"the rule leaves {spared:.1e} of the matrix: {about(digits, 'is left', 'are left')}"
        if eps > max(unit_roundoff(self.compute_dtype), unit_roundoff(name)):
            left = about(digits, "is left", "are left")
            return f"the input is asymmetric by {eps:.0e} of its size, and at cond {at['cond']:.1e} {left}"
        if self.rtol is not None and self.rtol < least:
            return f"rtol = {self.rtol:.1e} is less than {self._coarser()} can hold, which is {least:.1e}"
        singular = at["cond"] * smallest_share(n, 2 * machine, unit_roundoff(name)) >= 1
        if singular and digits >= 2 and self.rtol is None and self.exponent < 0:
            share = 1 / at["cond"]
            return f"the matrix is singular in {self._coarser()}, where {share:.1e} of lambda_max is rounding"
        bits = round(-math.log2(eps))
        wanted = "" if self.rtol is None else f" for rtol = {self.rtol:.1e}"
        return (
            f"at cond {at['cond']:.1e} rounding costs {min(at['bits_lost'], bits):.0f} of the {bits} bits of "
            f"{self._coarser()}: "
            f"{about(digits, 'is left', 'are left')}{wanted}"
        )

    def _coarser(self) -> str:
        """Return the dtype of the arithmetic or of the input, whichever has fewer bits."""
        name = dtype_name(self.x.dtype)
        return name if unit_roundoff(name) > unit_roundoff(self.compute_dtype) else self.compute_dtype

    def _remedy(self, cond: float, bits_lost: float, arithmetic: float, given: float) -> str:
        """Suggest a wider dtype where there is one, and a ridge with eps |s| / ridge at most the error wanted."""
        size = abs(float(self.exponent))
        if self.method.name == "schur_newton" and bits_lost > 3 + math.log2(max(1.0, cond * size)):
            return (
                "data with more digits, or another matrix: eigenvalues near the negative real axis, where roots jump, "
                "or eigenvectors that are nearly dependent cost these"
            )
        if self.exponent > 0 and cond * smallest_share(self.x.shape[-1], 2 * arithmetic, given) >= 1:
            return (
                "regularization=PseudoInverse(), if the smallest eigenvalues are zeros; a ridge would change what they "
                "become"
            )
        wanted = 1e-2 if self.rtol is None else min(self.rtol / VOUCHED, 1e-2)
        ridge = 10.0 ** math.ceil(math.log10(max(arithmetic * size / wanted, 100 * given * size) or 1.0))
        remedies = [] if ridge >= 1 else [f"regularization={ridge:.0e} (a ridge)"]
        if given > 2.0**-53 and not given * size * cond <= ILL_INPUT_ERROR:
            remedies.insert(0, "a matrix gathered in float64")
        elif arithmetic > 2.0**-53:
            remedies.insert(0, "compute_dtype='float64'")
        return ", or ".join(remedies) or "a larger rtol"


def on_host(values: Array) -> np.ndarray:
    """Copy a small array of any library to the host."""
    if isinstance(values, np.ndarray):
        return values
    copy = getattr(values, "get", getattr(values, "cpu", None))
    if copy is not None:
        return np.asarray(copy())
    return np.asarray(values) if hasattr(values, "__array__") else np.from_dlpack(values)


def _shortened(name: str, value: Array) -> str:
    if value is None or isinstance(value, str | int | Fraction) or name in ("exponent", "rtol", "method"):
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
    known = flat[~np.isnan(flat)]
    if known.size == 0:
        return "nan"
    low, high = form.format(known.min()), form.format(known.max())
    if low == high:
        return low
    middle = np.sort(known)[(len(known) - 1) // 2]  # of two in the middle one that occurs
    return f"{low} to {high}, median {form.format(middle)}"
