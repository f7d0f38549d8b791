"""One certified solve of a chunk of matrices: scale, regularize, run the method, scale back, certify, judge."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from matroot import conditioning
from matroot.engines.arrays import Origin, is_inexact, round_to
from matroot.engines.cpu import hermitian_part
from matroot.methods.base import Method, Problem, Raw
from matroot.methods.eigen import Eigen
from matroot.methods.iteration import add_to_diagonal
from matroot.regularization import Regularization, Ridge
from matroot.result import USABLE, RootResult, Status

Array = Any

#: A root whose forward error may exceed this (fewer than two digits certain) is ILL_CONDITIONED.
ILL_FORWARD_ERROR = 1e-2
#: A symmetric matrix may miss its transpose by this much of its largest entry, in units of sqrt(eps): rounding.
ASYMMETRY = 1.0


@dataclass(frozen=True)
class Job:
    """What is the same for every matrix of one call."""

    problem: Problem
    method: Method
    rule: Regularization | None
    dtype: np.dtype[Any]
    origin: Origin
    engine: Any

    @property
    def out_dtype(self) -> np.dtype[Any]:
        """What X is held in until it is given back: half precisions in float32, integers in float64."""
        name = self.origin.dtype_name
        if name in ("float16", "bfloat16"):
            return np.dtype("float32")
        return np.dtype(name) if is_inexact(name) else np.dtype("float64")

    @property
    def out_eps(self) -> float:
        """Unit roundoff of what the caller gets."""
        digits = {"float16": 11, "bfloat16": 8}.get(self.origin.dtype_name)
        return 2.0**-digits if digits else float(np.finfo(self.out_dtype).eps) / 2


class Output:
    """The arrays of a result over the flat batch; chunks write their slices."""

    def __init__(self, B: int, n: int, job: Job) -> None:
        xp = job.engine.xp
        self.x = xp.empty((B, n, n), job.out_dtype)
        self.companion = xp.empty_like(self.x) if job.method.gives_companion else None
        self.status = xp.zeros(B, xp.int8)
        self.n_iter = xp.zeros(B, xp.int64)
        self.residual, self.lambda_max, self.lambda_min, self.ridge = (xp.zeros(B) for _ in range(4))
        self.cond = xp.ones(B)
        self.n_products = 0
        self.certificate = "full"

    def write(self, at: Any, one: Attempt) -> None:
        """Take over what an attempt found for the matrices `at` (a slice or indices)."""
        for name in (
            "x",
            "companion",
            "status",
            "n_iter",
            "residual",
            "lambda_max",
            "lambda_min",
            "ridge",
            "cond",
        ):
            if getattr(self, name) is not None:
                getattr(self, name)[at] = getattr(one, name)
        self.n_products = max(self.n_products, one.n_products)
        self.certificate = one.certificate

    def result(self, batch: tuple[int, ...], job: Job) -> RootResult:
        give = job.origin.give_back
        lost = conditioning.bits_lost(self.cond, job.problem.s)

        def shaped(values: Array) -> Array:
            return give(values.reshape(batch) if batch else values.reshape(()), as_input=False)

        n = self.x.shape[-1]
        return RootResult(
            x=give(self.x.reshape(*batch, n, n)),
            companion=None if self.companion is None else give(self.companion.reshape(*batch, n, n)),
            status=shaped(self.status),
            residual=shaped(self.residual),
            cond=shaped(self.cond),
            bits_lost=shaped(lost),
            n_iter=shaped(self.n_iter),
            n_products=self.n_products,
            lambda_max=shaped(self.lambda_max),
            lambda_min=shaped(self.lambda_min),
            ridge=shaped(self.ridge),
            method=job.method,
            compute_dtype=job.dtype.name,
            certificate=self.certificate,
            exponent=job.problem.s,
        )


@dataclass
class Attempt:
    """One certified solve of a chunk, in the caller's units."""

    x: Array
    companion: Array | None
    status: Array
    n_iter: Array
    n_products: int
    residual: Array
    cond: Array
    lambda_max: Array
    lambda_min: Array
    ridge: Array
    certificate: str


def solve_chunk(stack: Array, part: slice, job: Job, out: Output) -> None:
    """Solve a few matrices and write them to `out`; a ridge with retries grows while the certificate is bad."""
    first = attempt(stack, job, job.rule)
    out.write(part, first)
    rule, bad = job.rule, ~np.isin(first.status, [*USABLE, Status.NONFINITE_INPUT])
    bad |= first.status == Status.ILL_CONDITIONED
    rows = np.flatnonzero(bad)
    tries = rule.retries if isinstance(rule, Ridge) else 0
    while isinstance(rule, Ridge) and tries and len(rows):
        rule, tries = rule.raised(), tries - 1
        again = attempt(stack[rows], job, rule)
        out.write(part.start + rows, again)
        rows = rows[again.status != Status.CONVERGED]


def attempt(stack: Array, job: Job, rule: Regularization | None) -> Attempt:
    """One solve of a chunk with one regularization, certified."""
    engine, problem = job.engine, job.problem
    xp = engine.xp
    B, n, _ = stack.shape
    A = xp.array(stack, dtype=job.dtype, order="C")
    finite = xp.isfinite(A).all((-1, -2))
    A[~finite] = xp.eye(n, dtype=A.dtype)
    size = abs(A).max((-1, -2))
    uneven = problem.assume_a == "pos" and check_symmetric(A, size, job.origin)
    exponent = _scale_exponent(size, rule)
    shift_by_power_of_two(A, -exponent)
    if uneven:
        A = hermitian_part(A)
    scale = np.ldexp(1.0, exponent)

    direct = isinstance(job.method, Eigen)
    largest, delta = None, xp.zeros(B)
    if rule is not None and not direct:
        largest, smallest = _extremes(A, rule.needs, problem.assume_a, engine)
        delta = rule.shift(largest, smallest, scale)
        add_to_diagonal(A, delta.astype(A.real.dtype))
    zero = ~A.any((-1, -2)) if not direct else xp.zeros(B, bool)
    A[zero] = xp.eye(n, dtype=A.dtype)
    raw = job.method.run(
        A,
        replace(
            problem,
            regularization=rule if direct else None,
            floor=None if rule is None else np.full(B, rule.floor()),
            scale=scale,
            out_eps=job.out_eps,
        ),
        engine,
    )
    del A
    status = xp.asarray(raw.status).astype(xp.int8)
    if raw.ridge is not None:
        delta = raw.ridge

    # In the units of the caller: X of 2^e A' is 2^(e s) X.
    X = raw.x if problem.assume_a == "gen" else hermitian_part(raw.x)
    x = _to_output(X, exponent, problem.s, job)
    companion = None
    if raw.companion is not None:
        opposite = raw.companion if problem.assume_a == "gen" else hermitian_part(raw.companion)
        companion = _to_output(opposite, exponent, -problem.s, job)
    raw.x = raw.companion = X = None
    status[~xp.isfinite(x).all((-1, -2)) & xp.isin(status, xp.asarray(USABLE))] = Status.DIVERGED

    # The certificate: the returned X, in float64, against the input prepared once more.
    wide = np.dtype("complex128" if job.dtype.kind == "c" else "float64")
    A = xp.array(stack, dtype=wide, order="C")
    A[~finite] = xp.eye(n, dtype=wide)
    shift_by_power_of_two(A, -exponent)
    if uneven:
        A = hermitian_part(A)
    add_to_diagonal(A, delta)
    X = x.astype(wide)
    _scale_root(X, exponent, -problem.s)
    opposite = None
    if problem.assume_a == "gen" and not isinstance(problem.s, Fraction):
        opposite = job.method.run(A.copy(), replace(problem, s=-problem.s), engine).x
    residual, certificate = conditioning.residual(A, X, problem.s, engine, raw.changed, opposite)
    facts = _facts(A, X, raw, delta, largest, status, problem, engine)
    status = _judge(status, residual, facts["cond"], n, job)
    if problem.s > 0:  # the root of 0 is 0, exactly
        status[(facts["lambda_max"] == 0) & (residual == 0) & (status == Status.ILL_CONDITIONED)] = Status.CONVERGED

    if zero.any():
        status[zero] = _zero_status(problem)
        x[zero] = 0
        residual[zero], facts["cond"][zero], facts["lambda_max"][zero], facts["lambda_min"][zero] = (
            0,
            np.inf,
            0,
            0,
        )
    status[~finite] = Status.NONFINITE_INPUT
    hopeless = ~xp.isin(status, xp.asarray([*USABLE, Status.MAX_ITER, Status.STAGNATED]))
    for values in (x, companion, residual):
        if values is not None:
            values[hopeless] = np.nan
    for values in (facts["cond"], facts["lambda_max"], facts["lambda_min"]):
        values[~finite] = np.nan
    with np.errstate(over="ignore", invalid="ignore"):  # a norm may exceed the range of the entries
        largest, smallest, ridge = (v * scale for v in (facts["lambda_max"], facts["lambda_min"], delta))
    return Attempt(
        x=x,
        companion=companion,
        status=status,
        n_iter=raw.n_iter,
        n_products=raw.n_products,
        residual=residual,
        cond=facts["cond"],
        lambda_max=largest,
        lambda_min=smallest,
        ridge=ridge,
        certificate=certificate,
    )


def check_symmetric(A: Array, size: Array, origin: Origin) -> bool:
    """Whether A has to be symmetrized; an error when it is not symmetric up to rounding."""
    other = A.swapaxes(-1, -2)
    gap = abs(A - (other.conj() if A.dtype.kind == "c" else other)).max((-1, -2))
    if not gap.any():
        return False
    refuse_asymmetric(float((gap / np.where(size > 0, size, 1)).max()), A.dtype.kind == "c", origin)
    return True


def refuse_asymmetric(gap: float, is_complex: bool, origin: Origin) -> None:
    """An error when max|A - A^H| is more than rounding; `gap` is relative to max|A|."""
    eps = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "complex64": 2.0**-24}
    if gap > ASYMMETRY * eps.get(origin.dtype_name, 2.0**-53) ** 0.5:
        kind = "Hermitian" if is_complex else "symmetric"
        raise ValueError(
            f"a is not {kind}: max|A - A^H| is {gap:.1e} of max|A|; for a general matrix pass assume_a='gen'"
        )


def _scale_exponent(size: Array, rule: Regularization | None) -> Array:
    """e such that A / 2^e has its largest entry in [1/2, 1); 0 for a zero matrix."""
    absolute = rule.absolute_size() if rule is not None else 0.0
    _, exponent = np.frexp(np.maximum(np.asarray(size, dtype=np.float64), absolute))
    return np.minimum(exponent, 1023)


def shift_by_power_of_two(A: Array, exponent: Array) -> None:
    """A *= 2^exponent, in place and exact, also where 2^exponent alone would overflow."""
    half = exponent // 2
    for part in (half, exponent - half):
        A *= np.ldexp(1.0, part).astype(A.real.dtype)[:, None, None]


def _scale_root(X: Array, exponent: Array, s: Any) -> None:
    """X *= 2^(exponent s), in place; exact where exponent * s is whole."""
    power = [s * int(e) for e in exponent]
    whole = np.array([int(np.floor(float(e))) for e in power])
    rest = np.array([2.0 ** float(e - int(w)) for e, w in zip(power, whole, strict=True)])
    if (rest != 1).any():
        X *= rest.astype(X.real.dtype)[:, None, None]
    shift_by_power_of_two(X, whole)


def _to_output(X: Array, exponent: Array, s: Any, job: Job) -> Array:
    """The root in the caller's units and precision."""
    wide = X.astype(np.result_type(X.dtype, np.float64), copy=True) if job.out_dtype.itemsize < 8 else X
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        _scale_root(wide, exponent, s)
        return round_to(wide.astype(job.out_dtype, copy=False), job.origin.dtype_name)


def _extremes(A: Array, needs: str, assume_a: str, engine: Any) -> tuple[Array, Array]:
    """Largest (and, where needed, smallest) eigenvalue of each matrix; the 2-norm of a general one."""
    if assume_a == "gen":
        return conditioning.norm2(A, engine), np.zeros(len(A))
    if needs == "extremes":
        w = engine.eigvalsh(A.astype(np.result_type(A.dtype, np.float64)))
        return w[:, -1], w[:, 0]
    largest = conditioning.largest_eigenvalue(A, engine)
    return largest, np.zeros_like(largest)


def _facts(
    A: Array,
    X: Array,
    raw: Raw,
    delta: Array,
    largest: Array | None,
    status: Array,
    problem: Problem,
    engine: Any,
) -> dict[str, Array]:
    """cond, lambda_max (of A) and lambda_min (of A'), measured or estimated; settles NOT_POSITIVE in `status`.

    An inverse root tells the smallest eigenvalue: lambda_min(A') = lambda_max(X)^{1/s}.
    """
    if raw.cond is not None and raw.lambda_max is not None and raw.lambda_min is not None:
        ridge = 0 if raw.ridge is not None else delta  # a ridge that the method did not add itself
        return {"cond": raw.cond, "lambda_max": raw.lambda_max - ridge, "lambda_min": raw.lambda_min}
    if problem.assume_a == "gen":
        norm = conditioning.norm2(A, engine)
        cond = np.full(len(A), np.nan) if raw.cond is None else raw.cond
        return {"cond": cond, "lambda_max": norm - delta, "lambda_min": norm / cond}
    top = conditioning.largest_eigenvalue(A, engine) if largest is None else largest + delta
    failed = ~np.isin(status, [*USABLE])
    with np.errstate(all="ignore"):
        if problem.inverse:
            lambda_min = conditioning.largest_eigenvalue(X, engine) ** (1 / float(problem.s))
        else:
            lambda_min = 1 / conditioning.largest_eigenvalue(_inverses(A), engine)
            lambda_min[np.isnan(lambda_min)] = 0
    if failed.any():  # a failure is looked into: is it the matrix, or the iteration?
        w = engine.eigvalsh(A[failed])
        lambda_min[failed], top[failed] = w[:, 0], w[:, -1]
        status[np.flatnonzero(failed)[w[:, 0] <= 0]] = Status.NOT_POSITIVE
    with np.errstate(divide="ignore", invalid="ignore"):
        cond = np.maximum(abs(top / lambda_min), 1)
    return {
        "cond": np.where(np.isnan(cond), np.inf, cond),
        "lambda_max": top - delta,
        "lambda_min": lambda_min,
    }


def _inverses(A: Array) -> Array:
    """The inverse of each matrix of a stack, infinite where there is none."""
    try:
        return np.asarray(np.linalg.inv(A))
    except np.linalg.LinAlgError:
        if len(A) == 1:
            return np.full_like(A, np.inf)
        return np.concatenate([_inverses(A[i : i + 1]) for i in range(len(A))])


def _judge(status: Array, residual: Array, cond: Array, n: int, job: Job) -> Array:
    """ILL_CONDITIONED where the arithmetic cannot vouch for two digits, or the certificate contradicts the method."""
    problem = job.problem
    rtol = problem.rtol or 0.0
    eps = float(np.finfo(job.dtype).eps) / 2
    with np.errstate(all="ignore"):
        bound = conditioning.forward_error_bound(cond, problem.s, eps)
        degree = problem.s.denominator if isinstance(problem.s, Fraction) else 1
        # A product rounds like sqrt(n) eps in the 2-norm: so does the residual of a good root, times cond.
        explained = 10 * degree * ((eps + job.out_eps) * cond * max(1.0, n**0.5 / 4) + rtol)
    ill = ~(bound <= max(ILL_FORWARD_ERROR, rtol)) | ~(residual <= np.maximum(ILL_FORWARD_ERROR, explained))
    return np.where((status == Status.CONVERGED) & ill, int(Status.ILL_CONDITIONED), status).astype(np.int8)


def _zero_status(problem: Problem) -> int:
    if problem.s > 0:
        return int(Status.CONVERGED)
    return int(Status.NO_PRINCIPAL_ROOT if problem.assume_a == "gen" else Status.NOT_POSITIVE)
