"""Powers on the device of a traced array, by the fixed schedule of `Minimax`; jax differentiates its products.

The derivative of a minimax polynomial is less accurate than its value, since its error oscillates. A Newton step at the
end multiplies the error of the derivative by the error of the value, and squares the latter.

A^(-a/p) is a power of A^(-1/p), which takes fewer products than the a-th power of every factor, and is as accurate.

A positive power is A^m (A A^(-q/p)), and the iteration begins with A: a product with A at the end would be less
accurate by the root of the condition number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from matroot._bars import allowed_error
from matroot._regularization import Ridge
from matroot._result import RootResult
from matroot._status import Status
from matroot.autodiff.forms import Power
from matroot.autodiff.jax import FACTS, usual_promotion
from matroot.backends.arrays import Origin, is_inexact
from matroot.methods.conditioning import PROBES, random_columns, start_vector
from matroot.methods.minimax import Minimax
from matroot.methods.minimax_schedule import Schedule, schedule, step_products
from matroot.methods.powers import power_products
from matroot.pipeline.call import Job
from matroot.pipeline.scaling import asymmetry_bar

Array = Any

#: Relative error of every eigenvalue of the root before the Newton step.
TARGET = 8 * 2.0**-52
#: ||M - I||_F that rounding may leave before the last step; an eigenvalue that the schedule does not serve leaves 1/2.
LAG = 0.1
#: Above this p the larger cushion is used, since M holds p-th powers of what is above it; and for positive powers in
#: float32.
LARGE_P = 4
#: Largest numerator and denominator of exponents other than -1/p.
LARGEST = 8
#: Steps of the power method: an estimate from below, by up to some 6 % for a flat spectrum.
POWER_STEPS = 40


def serves(job: Job, options: dict[str, Any]) -> bool:
    """Return True if the method was asked for, and if the schedule serves the problem."""
    method, rule, s = options.get("method"), job.rule, job.problem.s
    asked = method == "minimax" or isinstance(method, Minimax)
    plain = options.get("max_iter") is None and options.get("compute_dtype") is None
    ridge = rule is None or (isinstance(rule, Ridge) and not rule.retries)
    if not isinstance(s, Fraction) or job.problem.assume_a != "pos":
        return False
    small = max(abs(s.numerator), s.denominator) <= LARGEST and (s < 0 or s.denominator > 1)
    return asked and plain and ridge and (s.numerator == -1 or small)


def solve(a: Array, power: Power, compute: Callable[[Array], RootResult[Array]], job: Job) -> RootResult[Array]:
    """Return A^s, for a rational s, of a traced array, of at least float32 arithmetic, with measured quality.

    jax differentiates x; the other fields are constants.
    """
    with jax.default_matmul_precision("highest"), usual_promotion():
        return _solve(a, power, job)


def _solve(a: Array, power: Power, job: Job) -> RootResult[Array]:
    n, p, constant = a.shape[-1], job.problem.p, jax.lax.stop_gradient
    s = job.problem.rational
    positive, whole = s > 0, max(math.floor(s), 0)
    q, k = (int((whole + 1 - s) * p), 1) if positive else (1, -s.numerator)
    relative, absolute = (job.rule.relative, job.rule.absolute) if isinstance(job.rule, Ridge) else (0.0, 0.0)
    given = a if is_inexact(power.dtype_name) else a.astype(jnp.zeros((), float).dtype)
    A, eye = given.astype(jnp.promote_types(given.dtype, jnp.float32)), jnp.eye(n)
    eps = float(jnp.finfo(A.dtype).eps)
    size = constant(abs(A).max((-1, -2), initial=0))
    finite = jnp.isfinite(size)
    unit = jnp.exp2(jnp.floor(jnp.log2(jnp.where(finite & (size > 0), size, 1))))
    A = jnp.where(finite[..., None, None], A / _over(unit), eye.astype(A.dtype))
    gap = constant(abs(A - A.conj().mT).max((-1, -2), initial=0)) / jnp.where(size > 0, size / unit, 1)
    A = _symmetric(A)

    top = largest(A)
    delta = relative * top + absolute / unit
    A = A + _over(delta) * eye.astype(A.dtype)
    plan = _plan(job, relative, n, eps, q)
    bound = constant(_above(A))
    M = A / _over(bound)
    start = [jnp.broadcast_to(eye.astype(A.dtype), A.shape), *[M] * positive]
    powers, last = _iterated(jnp.stack(start), M, plan, q)
    # The norm of A^(-q/p) is that of the smallest eigenvalue.
    low = largest(constant(powers[0])) ** (-p / q) * bound
    X = powers[-1]
    if whole:
        X = _symmetric(jnp.linalg.matrix_power(M, whole) @ X)
    if k > 1:
        X = _symmetric(jnp.linalg.matrix_power(X, k))
    X = X * _over(bound ** float(s))
    outside = power_products(whole) + (whole > 0) + power_products(k)
    probes = jnp.asarray(random_columns(n, PROBES) if n > PROBES else np.eye(n), A.dtype)
    certified, root = constant(A), constant(X)
    goal, W = probes, certified @ probes
    if s.numerator != -1:
        if not positive:  # in units of the smallest eigenvalue, so that no power overflows
            certified, root = certified / _over(low), root * _over(low ** -float(s))
        goal, W = _times(certified, probes, s.numerator), probes
    W = _times(root, W, p)
    residual = _norm(W - goal) / jnp.maximum(_norm(goal), jnp.finfo(A.dtype).tiny)
    cond = jnp.maximum((top + delta) / low, 1)
    deviation = _norm(last - eye)
    # Rounding of a negative A is a larger error of what the ridge leaves of it.
    excess = jnp.where(delta > top + delta, delta / (top + delta), 1)
    error = jnp.finfo(A.dtype).eps / 2 * excess * abs(float(s)) * cond ** min(max(1 - float(s), 0), 1)
    status = jnp.where(error <= allowed_error(job.problem.rtol), 0, 1)
    status = jnp.where(status, int(Status.ILL_CONDITIONED), int(Status.CONVERGED))
    expected = math.sqrt(n) * 1.1 * plan.widths[-1] + LAG
    lagging = jnp.where(deviation <= 2 * math.sqrt(n), int(Status.STAGNATED), int(Status.DIVERGED))
    status = jnp.where(deviation <= expected, status, lagging)
    X = (X * _over(unit ** float(s))).astype(given.dtype)
    status = jnp.where(jnp.isfinite(X).all((-1, -2)), status, jnp.maximum(status, int(Status.DIVERGED)))
    bar = asymmetry_bar(Origin("numpy", given.dtype, None))
    status = jnp.where(gap <= bar, status, int(Status.NOT_SYMMETRIC))
    status = jnp.where(finite, status, int(Status.NONFINITE_INPUT))
    usable = (status == int(Status.CONVERGED)) | (status == int(Status.ILL_CONDITIONED))
    X = X + nothing(_over(jnp.where(usable, 0, jnp.nan)).astype(given.dtype), given)
    facts = {
        "status": status,
        "residual": residual,
        "cond": cond,
        "bits_lost": jnp.maximum(jnp.log2(cond * abs(float(s))), 0),
        "n_iter": jnp.full(status.shape, len(plan.steps) + 1),
        "n_products": jnp.full(status.shape, 2 + outside + len(plan.steps) * (step_products(4, p, q) + positive)),
        "lambda_max": top * unit,
        "lambda_min": low * unit,
        "ridge": delta * unit,
    }
    known = {name: constant(facts[name]).astype(jax.dtypes.canonicalize_dtype(kind)) for name, kind in FACTS.items()}
    return RootResult(
        x=X,
        companion=None,
        asymmetry=gap.astype(known["residual"].dtype),
        **known,
        method=job.method,
        compute_dtype=str(A.dtype),
        certificate="full" if n <= PROBES else "probes",
        exponent=job.problem.s,
        rtol=job.problem.rtol,
    )


@jax.custom_jvp  # type: ignore[untyped-decorator]
def nothing(value: Array, given: Array) -> Array:
    """Return 0, or NaN for failed matrices, as a function of `given` whose derivatives of every order are so, too."""
    return jnp.broadcast_to(value, given.shape)


@nothing.defjvp  # type: ignore[untyped-decorator]
def _nothing_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    value = nothing(*primals)
    return value, value * tangents[1]


def largest(A: Array) -> Array:
    """Estimate the largest eigenvalue of Hermitian matrices from below; its derivative is that at an eigenvector."""
    fixed = jax.lax.stop_gradient(A)
    v = jnp.broadcast_to(jnp.asarray(start_vector(A.shape[-1]), A.dtype)[:, None], (*A.shape[:-1], 1))

    def step(_: int, v: Array) -> Array:
        v = fixed @ v
        size = abs(v).max((-1, -2), keepdims=True)  # no square, which could overflow
        return v / jnp.where(size > 0, size, 1)

    v = jax.lax.fori_loop(0, POWER_STEPS, step, v)
    v = v / _over(jnp.maximum(_norm(v), 1))
    return (v.conj().mT @ A @ v)[..., 0, 0].real


def _times(A: Array, V: Array, power: int) -> Array:
    """Multiply V by A as many times as `power` says, or divide it if that is negative."""
    for _ in range(abs(power)):
        V = A @ V if power > 0 else jnp.linalg.solve(A, V)
    return V


def _plan(job: Job, floor: float, n: int, eps: float, q: int) -> Schedule:
    """Return the schedule for every spectrum that the ridge, or else rounding, leaves."""
    lower = min(max(floor / (1 + floor) * n**-0.25, eps * math.sqrt(n) / 4), 0.9)
    p = job.problem.p
    cushioned = p > LARGE_P or (eps > 1e-10 and job.problem.s > 0)
    accurate = (isinstance(job.method, Minimax) and job.method.accurate) or cushioned
    return schedule(p, lower, target=TARGET, a=q, accurate=accurate)


def _iterated(X: Array, M: Array, plan: Schedule, q: int) -> tuple[Array, Array]:
    """Multiply X by M^(-q/p), by the schedule and a Newton step; return it and M before the last step of the schedule.

    All polynomials are evaluated as if of degree 4, so that one step is compiled for all.
    """
    p, eye = plan.p, jnp.eye(M.shape[-1], dtype=M.dtype)

    def step(found: tuple[Array, Array, Array], c: Array) -> tuple[tuple[Array, Array, Array], None]:
        X, M, _ = found
        M2 = M @ M
        B = _symmetric(M2 @ (c[4] * M2 + c[3] * M + c[2] * eye) + c[1] * M + c[0] * eye)
        return (X @ jnp.linalg.matrix_power(B, q), _symmetric(jnp.linalg.matrix_power(B, p) @ M), M), None

    (X, M, last), _ = jax.lax.scan(step, (X, M, M), jnp.asarray(plan.table(), M.real.dtype))
    X = X @ ((1 + q / p) * eye - q / p * M)
    return _symmetric(X), jax.lax.stop_gradient(last)


def _symmetric(A: Array) -> Array:
    return (A + A.conj().mT) / 2


def _above(A: Array) -> Array:
    """Bound the largest eigenvalue from above; see `matroot.methods.minimax_steps.largest_between`."""
    n = A.shape[-1]
    second = (abs(A) ** 2).sum((-1, -2)) / n
    fourth = (abs(A @ A) ** 2).sum((-1, -2)) / n
    variance = jnp.maximum(fourth - second**2, 0) + 4 * jnp.finfo(A.dtype).eps * fourth
    above = jnp.minimum(abs(A).sum(-1).max(-1), jnp.sqrt(second + jnp.sqrt((n - 1) * variance)))
    return jnp.where(above > 0, above, 1)


def _norm(A: Array) -> Array:
    return jnp.sqrt((abs(A) ** 2).sum((-1, -2)))


def _over(values: Array) -> Array:
    return values[..., None, None]
