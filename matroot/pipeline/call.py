"""The options of one call (`Job`), and the facts about its matrices (`Output`)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from matroot._regularization import Regularization
from matroot._result import RootResult
from matroot.backends.arrays import Origin, dtype_name, is_inexact, unit_roundoff
from matroot.backends.base import Backend
from matroot.methods import conditioning
from matroot.methods.base import Array, Method, Problem


@dataclass(frozen=True)
class Job:
    """The options that all matrices of one call share."""

    problem: Problem
    method: Method
    rule: Regularization | None
    dtype: np.dtype[Any]
    origin: Origin
    backend: Backend
    #: float32 was chosen and not requested, so matrices for which it is not enough may be computed in float64
    may_widen: bool = False
    #: the array is one matrix, and no batch of one
    lone: bool = False
    #: the precision was requested
    fixed: bool = False

    @cached_property
    def out_dtype(self) -> np.dtype[Any]:
        """Dtype of X before conversion to the caller's: float32 for half precisions, float64 for integers."""
        name = self.origin.dtype_name
        if name in ("float16", "bfloat16"):
            return np.dtype("float32")
        return np.dtype(name) if is_inexact(name) else np.dtype("float64")

    @cached_property
    def out_eps(self) -> float:
        """Unit roundoff of the input and the output; integers are exact, and their roots are float64."""
        name = self.origin.dtype_name
        return unit_roundoff(name) if is_inexact(name) else unit_roundoff(self.out_dtype.name)

    @cached_property
    def eps(self) -> float:
        """Unit roundoff of the products."""
        return float(self.backend.eps(self.dtype)) / 2


@dataclass
class Output:
    """The facts about the matrices of a stack, in the caller's units: of a chunk by `attempt`, of a batch in parts."""

    x: Array
    companion: Array | None
    status: Array
    n_iter: Array
    residual: Array
    cond: Array
    lambda_max: Array
    lambda_min: Array
    ridge: Array
    asymmetry: Array
    dtype: np.dtype[Any]
    n_products: int = 0
    certificate: str = "full"
    #: relative condition number of A -> A^s for general matrices
    amplification: Array | None = None
    #: eigenvalues of general matrices that were not taken for 0
    rank: Array | None = None
    #: how many eigenvalues a rule has changed
    changed: Array | None = None

    @classmethod
    def room(cls, B: int, n: int, job: Job) -> Output:
        """Return an output for B matrices of order n, whose rows are to be written."""
        xp, general = job.backend.xp, job.problem.assume_a == "gen"
        cuts = job.rule is not None and job.rule.changes_spectrum
        x = xp.empty((B, n, n), job.out_dtype)
        residual, lambda_max, lambda_min, ridge, asymmetry = xp.zeros((5, B))
        return cls(
            x=x,
            companion=xp.empty_like(x) if job.method.gives_companion else None,
            status=xp.zeros(B, xp.int8),
            n_iter=xp.zeros(B, xp.int64),
            residual=residual,
            cond=xp.ones(B),
            lambda_max=lambda_max,
            lambda_min=lambda_min,
            ridge=ridge,
            asymmetry=asymmetry,
            dtype=job.dtype,
            amplification=xp.zeros(B) if general else None,
            rank=xp.full(B, n) if general else None,
            changed=xp.zeros(B, xp.int64) if cuts else None,
        )

    def write(self, at: Any, one: Output) -> None:
        """Write the rows `at` (a slice or indices). If they are the whole batch, adopt the arrays without copying."""
        whole = isinstance(at, slice) and len(one.x) == len(self.x)
        for name, values in vars(one).items():
            if name in ("n_products", "certificate", "dtype"):
                continue
            if whole:
                setattr(self, name, values)
            elif getattr(self, name) is not None:
                getattr(self, name)[at] = values
        self.n_products = max(self.n_products, one.n_products)
        self.certificate = one.certificate

    def result(self, batch: tuple[int, ...], job: Job) -> RootResult[Any]:
        give = job.origin.give_back
        known = self.amplification is not None
        lost = conditioning.bits_lost(self.amplification if known else self.cond, 1.0 if known else job.problem.s)

        n = self.x.shape[-1]
        names = ("status", "residual", "cond", "n_iter", "lambda_max", "lambda_min", "ridge")
        facts = {name: getattr(self, name).reshape(batch) for name in names}
        facts["bits_lost"] = lost.reshape(batch)
        if job.origin.library != "numpy":
            facts = {name: give(values, as_input=False) for name, values in facts.items()}
        if self.rank is not None and job.problem.s > 0:
            facts["rank"] = give(self.rank.reshape(batch), as_input=False)
        if self.changed is not None and job.rule is not None:
            facts["changed"] = give(self.changed.reshape(batch), as_input=False)
            if job.rule.keeps_null_space:
                facts["rank"] = give((n - self.changed).reshape(batch), as_input=False)
        return RootResult(
            x=give(self.x.reshape(*batch, n, n)),
            companion=None if self.companion is None else give(self.companion.reshape(*batch, n, n)),
            n_products=self.n_products,
            method=job.method,
            compute_dtype=job.backend.rounding or dtype_name(self.dtype),
            certificate=self.certificate,
            exponent=job.problem.s,
            rtol=job.problem.rtol,
            asymmetry=give(self.asymmetry.reshape(batch), as_input=False) if job.problem.assume_a == "pos" else None,
            **facts,
        )


class Facts(NamedTuple):
    """Numbers known of every matrix (B,): `lambda_max` is that of A, `lambda_min` that of the regularized A'."""

    status: Array
    cond: Array
    lambda_max: Array
    lambda_min: Array
