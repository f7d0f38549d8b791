"""Roots of arrays that jax traces: computed on the host in float64, differentiable twice, under any transformation.

The forms of `matroot.autodiff.forms` are one primitive, whose rules are those of linear and bilinear maps. A callback
calls numpy only: jax itself may wait for the callback.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from matroot._regularization import Floor, PseudoInverse
from matroot._result import RootResult
from matroot._status import USABLE, Status
from matroot.autodiff.callbacks import call
from matroot.autodiff.forms import OF_THE_RULE, Power, evaluate
from matroot.backends import cpu_backend
from matroot.backends.arrays import Origin, is_inexact, readable
from matroot.methods.conditioning import PROBES
from matroot.pipeline.call import Job
from matroot.pipeline.scaling import asymmetry, asymmetry_bar

Array = Any

#: Fields of a result that describe the call; the other fields are arrays.
STATIC = ("method", "compute_dtype", "certificate", "exponent", "rtol")
#: Fields with one number for a matrix, and their dtypes.
FACTS = {
    "status": np.int8,
    "n_iter": np.int32,
    "n_products": np.int32,
    **dict.fromkeys(("residual", "cond", "bits_lost", "lambda_max", "lambda_min", "ridge"), np.float64),
}

jax.tree_util.register_dataclass(RootResult, [f.name for f in fields(RootResult) if f.name not in STATIC], [*STATIC])


@contextmanager
def usual_promotion() -> Iterator[None]:
    """Promote dtypes and ranks as usual, also in a program that forbids it for its own code."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@usual_promotion()
def solve(a: Array, power: Power, compute: Callable[[Array], RootResult[Array]], job: Job) -> RootResult[Array]:
    """Return the result of `compute`, a function of numpy arrays, for a traced array.

    A matrix that is not symmetric under "pos" has a status, since nothing can be raised.
    """
    batch = a.shape[:-2]
    dtype = a.dtype if is_inexact(power.dtype_name) else jnp.zeros((), float).dtype
    shapes = {name: jax.ShapeDtypeStruct(batch, jax.dtypes.canonicalize_dtype(kind)) for name, kind in FACTS.items()}
    positive = power.assume_a == "pos"
    if positive:
        shapes["asymmetry"] = jax.ShapeDtypeStruct(batch, jax.dtypes.canonicalize_dtype(np.float64))
    if isinstance(power.rule, Floor | PseudoInverse):
        shapes["changed"] = jax.ShapeDtypeStruct(batch, np.int32)
    if isinstance(power.rule, PseudoInverse) or (not positive and power.s > 0):
        shapes["rank"] = jax.ShapeDtypeStruct(batch, np.int32)
    if power.assume_a == "pos":
        shapes["asymmetry"] = shapes["residual"]
    for name in ("x", "companion") if job.method.gives_companion else ("x",):
        shapes[name] = jax.ShapeDtypeStruct(a.shape, dtype)
    shift = jax.ShapeDtypeStruct((*batch, 2), jax.dtypes.canonicalize_dtype(np.float64))

    def host(values: Array) -> tuple[dict[str, Array], Array]:
        values = np.asarray(values)
        try:
            result = compute(values)
        except ValueError:  # a matrix is not symmetric; other arguments have been checked
            kept, uneven = screened(values)
            result = compute(kept)
            result.status[uneven] = Status.NOT_SYMMETRIC
        found = {}
        for name, shape in shapes.items():
            value = getattr(result, name)
            size = values.shape if name in ("x", "companion") else values.shape[:-2]
            found[name] = np.broadcast_to(value, size).astype(shape.dtype)
        usable = np.isin(result.status, USABLE)
        added = np.broadcast_to(np.where(usable, result.ridge, np.nan), values.shape[:-2])
        return found, np.stack(np.frexp(added), -1).astype(shift.dtype)

    found, ridge = call(host, (shapes, shift), jax.lax.stop_gradient(a))
    if is_inexact(power.dtype_name):
        found["x"] = attached(power, a, found["x"], ridge)
    return RootResult(
        **{"companion": None, **found},
        method=job.method,
        compute_dtype=job.backend.rounding or job.dtype.name,
        certificate="full" if a.shape[-1] <= PROBES else "probes",
        exponent=job.problem.s,
        rtol=job.problem.rtol,
    )


@usual_promotion()
def alike(a: Array, e: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Return both arrays in one shape and dtype."""
    dtype = jnp.result_type(a, e)
    dtype = dtype if is_inexact(dtype.name) else jnp.zeros((), float).dtype
    return jnp.broadcast_to(a, shape).astype(dtype), jnp.broadcast_to(e, shape).astype(dtype)


def derivative(a: Array, e: Array, power: Power) -> Array:
    """Return the derivative at a in the direction e, which jax can differentiate in both."""
    return _bind("derivative", power, a, as_parts(jnp.full(a.shape[:-2], OF_THE_RULE)), e)


@usual_promotion()
def product(X: Array, b: Array) -> Array:
    """Return X b in the wider dtype of the two."""
    return jnp.matmul(X, b)


def as_parts(ridge: Array) -> Array:
    """Return a ridge as m and k of m 2^k, (..., 2): without x64 jax has float32, where that of small matrices is 0."""
    return jnp.stack([ridge, jnp.zeros_like(ridge)], -1)


def screened(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the matrices, with NaN for those that are not symmetric up to rounding, and which these are."""
    n = values.shape[-1]
    stack = values.astype(np.result_type(readable(str(values.dtype)), np.float32)).reshape(-1, n, n)
    uneven = asymmetry(stack, cpu_backend()) > asymmetry_bar(Origin("numpy", values.dtype, None))
    stack[uneven] = np.nan
    kept = values.dtype if is_inexact(str(values.dtype)) else stack.dtype
    return stack.reshape(values.shape).astype(kept), uneven.reshape(values.shape[:-2])


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def attached(power: Power, a: Array, x: Array, ridge: Array) -> Array:
    """Return x, with the derivative of the power at a."""
    return x


def _attached_jvp(power: Power, primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    a, x, ridge = primals
    return attached(power, a, x, ridge), form_p.bind(a, ridge, tangents[0], form="derivative", power=power)


attached.defjvp(_attached_jvp)
form_p = Primitive("matroot_form")


def _bind(form: str, power: Power, a: Array, ridge: Array, *directions: Array) -> Array:
    return form_p.bind(a, ridge, *directions, form=form, power=power)


def _callback(a: Array, ridge: Array, *directions: Array, form: str, power: Power) -> Array:
    def host(*given: Array) -> Array:
        values, added, *others = (np.asarray(v) for v in given)
        size = values.shape[-2:]
        if not values.size:
            return np.zeros(values.shape, values.dtype)
        stack, *along = (v.astype(readable(str(v.dtype))).reshape(-1, *size) for v in (values, *others))
        shift = np.ldexp(added[..., 0].astype(np.float64), added[..., 1].astype(np.int32)).reshape(-1)
        out, _ = evaluate(form, power, stack, tuple(along), shift)
        with np.errstate(over="ignore"):
            return out.reshape(values.shape).astype(values.dtype)

    shape = jax.ShapeDtypeStruct(a.shape, a.dtype)
    found: Array = call(host, shape, a, ridge, *directions)
    return found


def _jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...], *, form: str, power: Power) -> tuple[Array, Array]:
    a, ridge, *directions = primals
    da, _, *moved = tangents
    terms = []
    for i, d in enumerate(moved):  # linear in every direction
        if not isinstance(d, ad.Zero):
            terms.append(_bind(form, power, a, ridge, *directions[:i], d, *directions[i + 1 :]))
    if not isinstance(da, ad.Zero):
        if form == "derivative":
            terms.append(_bind("second", power, a, ridge, directions[0], da))
        elif form == "adjoint":
            terms.append(_bind("second_adjoint", power, a, ridge, da, directions[0]))
        else:
            raise NotImplementedError("roots have derivatives of first and second order; this asks for the third")
    out = _bind(form, power, *primals)
    return out, sum(terms[1:], terms[0]) if terms else ad.Zero.from_primal_value(out)


def _transpose(ct: Array, a: Array, ridge: Array, *directions: Array, form: str, power: Power) -> list[Any]:
    """Transpose in the direction that is not given: the adjoint for Re sum(x y), which jax pairs complex arrays by."""
    if isinstance(ct, ad.Zero):
        return [None] * (2 + len(directions))
    g = ct.conj()
    (at,) = (i for i, d in enumerate(directions) if ad.is_undefined_primal(d))
    given = directions[1 - at] if len(directions) == 2 else None
    name, arguments = {
        ("derivative", 0): ("adjoint", (g,)),
        ("adjoint", 0): ("derivative", (g,)),
        ("second", 0): ("second_adjoint", (given, g)),
        ("second", 1): ("second_adjoint", (given, g)),
        ("second_adjoint", 0): ("second_adjoint", (g, given)),
        ("second_adjoint", 1): ("second", (g, given)),
    }[form, at]
    found = _bind(name, power, a, ridge, *arguments).conj()
    return [None, None, *(found if i == at else None for i in range(len(directions)))]


def _batch(args: tuple[Array, ...], dims: tuple[Any, ...], *, form: str, power: Power) -> tuple[Array, int]:
    (size,) = {x.shape[d] for x, d in zip(args, dims, strict=True) if d is not None}
    front = [
        jnp.broadcast_to(x, (size, *x.shape)) if d is None else jnp.moveaxis(x, d, 0)
        for x, d in zip(args, dims, strict=True)
    ]
    return _bind(form, power, *front), 0


form_p.def_impl(_callback)
form_p.def_abstract_eval(lambda a, *others, form, power: jax.core.ShapedArray(a.shape, a.dtype))
mlir.register_lowering(form_p, mlir.lower_fun(_callback, multiple_results=False))
ad.primitive_jvps[form_p] = _jvp
ad.primitive_transposes[form_p] = _transpose
batching.primitive_batchers[form_p] = _batch
