"""Roots of a slowly changing matrix, updated from the previous eigenbasis."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from matroot._bars import least_rtol
from matroot._regularization import Regularization, as_regularization
from matroot._result import RootResult, on_host
from matroot._solve import check_degree, plan, solve_power
from matroot._status import USABLE, Status
from matroot.backends.arrays import take, unit_roundoff
from matroot.backends.holds import confined
from matroot.backends.keywords import is_int
from matroot.drift.basis import FAILED, FULL, WAYS, Warm
from matroot.drift.cut import excess_of_cuts
from matroot.drift.first_order import Basis, eigen_error, full_error, narrower
from matroot.drift.state import FIELDS, checked
from matroot.drift.update import Update
from matroot.methods.base import Array
from matroot.methods.eigen import Eigen
from matroot.pipeline.call import Job
from matroot.pipeline.status import excess_of

#: float32 is enough where its rounding error, bounded by the regularization, is at most this share of rtol.
FLOAT32_SHARE = 0.5


class RootTracker:
    """Roots of a matrix, or a batch, that changes a little from call to call.

    Use it for the statistics of a second-order optimizer, or a streaming covariance. `update` returns A^{-1/p} (or
    A^{1/p}) of the current matrix. The tracker keeps the eigenvectors Q of the last full solve, and takes for every
    matrix the first of three ways whose error bound is within `rtol`:

    - first order in Q^H A Q (Daleckii-Krein; Higham 2008, thm. 3.11): four products. Two of them are Hermitian and
      cost half, and all of them multiply differences, for which half the precision is enough;
    - a refinement of Q by products (Ogita & Aishima 2018), followed by first order, where this is cheaper than a
      decomposition;
    - a full solve.

    The number of calls has no influence on the choice.

    Parameters
    ----------
    p : int or Fraction
        Degree of the root, at least 1; ``Fraction(4, 3)`` is A^{-3/4}.
    inverse : bool
        A^{-1/p} (the default) or A^{1/p}.
    rtol : float
        The relative error allowed, ``||X - A'^{-1/p}||_2 <= rtol ||A'^{-1/p}||_2``, where A' is A with the reported
        ridge. A root is ``ILL_CONDITIONED`` if rounding errors exceed `rtol` at its condition number. The error of
        rounding X to the dtype of A is included in `error`, but does not count against `rtol`.
    regularization : float or Regularization, optional
        As in `solve`. Under `Floor` and `PseudoInverse` every update is a full solve. `Ridge`, `Shift` and
        `TargetCondition` use eigenvalues of small sections of Q^H A Q, which are right to second order.
    compute_dtype : dtype or str, optional
        ``"float32"`` or ``"float64"``. None: float64, unless the regularization bounds the condition number so that
        the rounding error of float32 is at most half of `rtol`.
    refine : bool
        If True, a basis may be refined. Off by default: refining costs seven products, and LAPACK's decomposition
        costs about as much on a few cores (4 to 7, measured). It may be faster on many cores.
    warm_from : int
        Smaller matrices are solved in full at each update by ``method="auto"``, which is as fast for them. Matrices on
        a GPU are always solved in full.

    Attributes
    ----------
    error : array of float64, (...)
        Bound of the relative error of each root of the last update; infinite where there is none.
    way : array of str, (...)
        The way each root was computed: "first order", "refined", "full" or "failed".
    counts : dict
        Number of roots computed each way, over all updates and matrices.

    Notes
    -----
    The state is 3 n^2 numbers in the precision of the arithmetic for every matrix (3.5 n^2 after a refinement); an
    update temporarily allocates some 5 n^2 more. A tracker can be copied, pickled, or saved by `state_dict`.

    References
    ----------
    Ogita & Aishima, Iterative refinement for symmetric eigenvalue decomposition, Japan J. Indust. Appl. Math. 35,
    2018. Higham, Functions of Matrices, SIAM 2008.

    Examples
    --------
    >>> import numpy as np
    >>> from matroot import RootTracker, gallery
    >>> A, _ = gallery.spd(128, 1e4, rng=0)
    >>> tracker = RootTracker(4)
    >>> for step in range(3):
    ...     result = tracker.update(A + 1e-6 * step * np.eye(128))
    >>> print(tracker.way, bool(tracker.error < 1e-3))
    first order True
    >>> tracker.counts
    {'first order': 2, 'refined': 0, 'full': 1, 'failed': 0}
    """

    def __init__(
        self,
        p: int | Fraction,
        /,
        *,
        inverse: bool = True,
        rtol: float = 1e-3,
        regularization: Regularization | float | None = None,
        compute_dtype: Any = None,
        refine: bool = False,
        warm_from: int = 128,
    ) -> None:
        if not (isinstance(rtol, int | float | np.floating) and 0 < rtol < 1):
            raise ValueError(f"rtol must be a number in (0, 1), got {rtol!r}")
        if not is_int(warm_from) or warm_from < 2:
            raise ValueError(f"warm_from must be an int >= 2, got {warm_from!r}")
        self.p = p if isinstance(p, Fraction) and p >= 1 else check_degree(p)
        self.inverse = bool(inverse)
        self.rtol = float(rtol)
        self.regularization = as_regularization(regularization)
        self.compute_dtype = compute_dtype
        self.refine = bool(refine)
        self.warm_from = warm_from
        self.counts = dict.fromkeys(WAYS, 0)
        self.reset()

    @property
    def exponent(self) -> Fraction:
        """The exponent s of X = A'^s."""
        return (-1 if self.inverse else 1) / Fraction(self.p)

    def reset(self) -> None:
        """Discard the state, so that the next matrix may have any shape and dtype; the counts are kept."""
        self._shape: tuple[int, ...] | None = None
        self._dtype: str | None = None
        self._bases: list[Basis | None] = []
        self.error: Array = np.array(np.inf)
        self.way: Array = np.array(FAILED)

    @confined
    def update(self, a: Array, /) -> RootResult[Any]:
        """Compute the root of the current matrix.

        Parameters
        ----------
        a : array (..., n, n)
            Symmetric or Hermitian; numpy, torch, jax, ... as in `solve`. Of the shape and dtype of the first update.

        Returns
        -------
        RootResult
            As of `solve`. Its `method` counts the matrices that were computed each way. `cond`, `lambda_max` and
            `lambda_min` are Rayleigh quotients, exact after a full solve and right to second order otherwise. A matrix
            that holds NaN or has no root gets its status, and the state of its last good root is kept.

        Raises
        ------
        TypeError, ValueError
            As from `solve`, and when shape or dtype changed.
        """
        values, origin = take(a)
        self._follow(tuple(values.shape), origin.dtype_name)
        rule, n = self.regularization, values.shape[-1]
        options = {"regularization": rule, "compute_dtype": self._precision(values.dtype, n)}
        # The error of rounding to the caller's dtype does not count against rtol.
        given = unit_roundoff(origin.dtype_name)
        rtol = max(self.rtol, least_rtol(2.0**-24, given, n)) if given > 2.0**-24 else self.rtol
        job = plan(values, origin, self.exponent, method=Eigen(), rtol=rtol, **options)
        if n < self.warm_from or (rule is not None and rule.changes_spectrum) or job.backend.sync_free():
            result = self._cold(values, solve_power(a, self.exponent, **options), job)
        else:
            result = self._warm(values, job)
        self._shape, self._dtype = tuple(values.shape), origin.dtype_name
        done = [int((self.way == way).sum()) for way in WAYS]
        self.counts = {way: self.counts[way] + count for way, count in zip(WAYS, done, strict=True)}
        reason = f"error bounds up to {self.error.max(initial=0):.1e}, of {self.rtol:.0e} allowed"
        return replace(result, method=Warm(*done, reason=reason))

    def _warm(self, values: Array, job: Job) -> RootResult[Any]:
        batch, n = values.shape[:-2], values.shape[-1]
        stack = values.reshape(math.prod(batch), n, n)
        one = Update(stack, job, self._bases or [None] * len(stack), self.rtol, self.refine)
        if stack.size:
            job.backend.run_chunks(one.solve, len(stack), n, job.dtype.itemsize)
        self._bases = one.bases
        self.error, self.way = one.error.reshape(batch), one.way.reshape(batch)
        return one.out.result(batch, job)

    def _cold(self, values: Array, result: RootResult[Any], job: Job) -> RootResult[Any]:
        status, dtype = on_host(result.status), np.dtype(result.compute_dtype)
        usable = np.isin(status, USABLE)
        n = result.x.shape[-1]
        highest, lowest, ridge = (on_host(x) for x in (result.lambda_max, result.lambda_min, result.ridge))
        rule = job.rule
        if rule is not None and rule.changes_spectrum and result.changed is not None:
            cut = np.where(usable, on_host(result.changed), 0).reshape(-1)
            stack = values.reshape(len(cut), n, n)
            excess = excess_of_cuts(stack, cut, rule, self.exponent, job.backend).reshape(usable.shape)
        else:
            excess = excess_of(highest, lowest, ridge, None, self.exponent)
        bound = full_error(on_host(result.cond), self.exponent, dtype, n, excess)
        self.error = np.where(usable, bound + job.out_eps * n**0.5, np.inf)
        self.way = np.where(usable, FULL, FAILED)
        if not (usable & ~(bound <= self.rtol)).any():
            return result
        status = np.where(usable & ~(bound <= self.rtol), int(Status.ILL_CONDITIONED), status).astype(np.int8)
        backend = job.backend
        with backend.here(job.origin) if backend.sync_free() else nullcontext():
            return replace(result, status=job.origin.give_back(backend.xp.asarray(status), as_input=False))

    def summary(self) -> str:
        """Return one line of text: the counts of each way, and the worst error bound of the last update."""
        total = sum(self.counts.values())
        ways = ", ".join(f"{count} {way}" for way, count in self.counts.items())
        worst = f"{self.error.max(initial=0):.1e}"
        return f"{total} roots: {ways}; last error bound {worst} of {self.rtol:.0e} allowed"

    def orthogonality(self) -> Array:
        """Measure ||Q^H Q - I||_F of every kept basis (one product each); NaN where there is none."""
        batch = self._shape[:-2] if self._shape else ()
        found = np.full(math.prod(batch), np.nan)
        for i, basis in enumerate(self._bases):
            if basis is not None:
                Q = basis.Q
                gram = Q.conj().T @ Q
                gram.reshape(-1)[:: len(Q) + 1] -= 1
                found[i] = float(abs(gram**2).sum()) ** 0.5
        return found.reshape(batch)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return the whole state as numpy arrays; a tracker that loads it continues with identical bits.

        Returns
        -------
        dict of str to array
            ``counts``, ``exponent``, ``shape`` (of `a`; empty before the first update), ``known`` (the matrices that
            have a basis) and, stacked over these, the fields of their bases.
        """
        known = [i for i, basis in enumerate(self._bases) if basis is not None]
        state = {
            "counts": np.array(list(self.counts.values())),
            "exponent": np.array([self.exponent.numerator, self.exponent.denominator]),
            "shape": np.array(self._shape or (), dtype=np.int64),
            "known": np.array(known, dtype=np.int64),
        }
        bases = [basis for basis in self._bases if basis is not None]
        if bases:
            bases = [
                basis
                if basis.E is not None
                else replace(basis, E=np.zeros_like(basis.Q, dtype=narrower(basis.Q.dtype)))
                for basis in bases
            ]
            state |= {name: np.stack([np.asarray(getattr(basis, name)) for basis in bases]) for name in FIELDS}
        return state

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Load a `state_dict` of a tracker with the same p and inverse.

        Raises
        ------
        ValueError
            The state belongs to another root, or arrays are missing, or of the wrong shape or kind.
        """
        arrays = checked(state)
        s = Fraction(*(int(k) for k in arrays["exponent"]))
        if s != self.exponent:
            raise ValueError(f"the state is that of A^({s}), this tracker's root is A^({self.exponent})")
        shape, known = tuple(int(k) for k in arrays["shape"]), arrays["known"]
        self.reset()
        self.counts = dict(zip(WAYS, (int(k) for k in arrays["counts"]), strict=True))
        if not shape:
            return
        batch = shape[:-2]
        self._shape, self._bases = shape, [None] * math.prod(batch)
        for j, i in enumerate(known):
            one = {name: arrays[name][j] for name in FIELDS}
            self._bases[i] = Basis(**{k: v.copy() if v.ndim else v.item() for k, v in one.items()})
        self.error, self.way = np.full(batch, np.inf), np.full(batch, FAILED)

    def _follow(self, shape: tuple[int, ...], dtype: str) -> None:
        if self._shape not in (None, shape) or self._dtype not in (None, dtype):
            raise ValueError(
                f"a is {shape} {dtype}, but this tracker follows {self._shape} {self._dtype or ''}; "
                "call reset() to follow another matrix"
            )

    def _precision(self, given: np.dtype[Any], n: int) -> Any:
        """Return the dtype to compute in, for an input of dtype `given`."""
        if self.compute_dtype is not None:
            return self.compute_dtype
        floor = self.regularization.floor() if self.regularization is not None else 0.0
        rounding = eigen_error(np.dtype("float32"), n) * abs(float(self.exponent))
        single = given.kind in "fc" and given.itemsize <= (8 if given.kind == "c" else 4)
        return "float32" if single and rounding <= FLOAT32_SHARE * self.rtol * floor else "float64"
