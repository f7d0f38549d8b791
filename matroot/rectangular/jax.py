"""Powers of singular values of arrays that jax traces: computed on the host, differentiable twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from matroot._status import USABLE, Status
from matroot.autodiff.callbacks import call
from matroot.autodiff.forms import Power
from matroot.autodiff.jax import as_parts, attached, screened, usual_promotion
from matroot.backends.arrays import is_inexact
from matroot.rectangular import certificate
from matroot.rectangular.lifted import lifted
from matroot.rectangular.result import OrthogonalizerResult, PolarResult, SpectralResult

Array = Any
Result = TypeVar("Result", PolarResult[Any], SpectralResult[Any])

#: Fields of a result that describe the call; the other fields are arrays.
STATIC = ("method", "certificate", "exponent")
#: Fields with one number for a matrix, and their dtypes.
FACTS = {"status": np.int8, "rank": np.int32, **dict.fromkeys(("residual", "cond", "orthogonality"), np.float64)}
#: Those of an orthogonalizer.
OF_OVERLAPS = {"status": np.int8, "rank": np.int32} | dict.fromkeys(
    ("residual", "cond", "kept_least", "dropped_most", "smallest"), np.float64
)

for _kind in (PolarResult, SpectralResult, OrthogonalizerResult):
    _names = [f.name for f in fields(_kind)]
    jax.tree_util.register_dataclass(_kind, [n for n in _names if n not in STATIC], [n for n in _names if n in STATIC])


@usual_promotion()
def polar(a: Array, power: Power, compute: Callable[[Array], PolarResult[Array]]) -> PolarResult[Array]:
    """Return the result of `compute`, a function of numpy arrays, for a traced array."""
    result = _traced(a, power, compute, PolarResult, "u", {})
    if not is_inexact(power.dtype_name):
        return result
    h = result.u.conj().mT @ a
    h = (h + h.conj().mT) / 2
    return replace(result, h=result.h + (h - jax.lax.stop_gradient(h)))  # the value is that of `compute`


@usual_promotion()
def spectral_power(a: Array, power: Power, compute: Callable[[Array], SpectralResult[Array]]) -> SpectralResult[Array]:
    """Return the result of `compute`, a function of numpy arrays, for a traced array."""
    return _traced(a, power, compute, SpectralResult, "x", {"exponent": power.s})


@usual_promotion()
def orthogonalizer(a: Array, compute: Callable[[Array], OrthogonalizerResult[Array]]) -> OrthogonalizerResult[Array]:
    """Return the result of `compute`, a function of numpy arrays, for a traced array; x has n columns."""
    batch, n = a.shape[:-2], a.shape[-1]
    dtype = a.dtype if jnp.issubdtype(a.dtype, jnp.inexact) else jnp.zeros((), float).dtype
    shapes = {
        name: jax.ShapeDtypeStruct(batch, jax.dtypes.canonicalize_dtype(kind)) for name, kind in OF_OVERLAPS.items()
    }
    shapes |= {"x": jax.ShapeDtypeStruct(a.shape, dtype), "mask": jax.ShapeDtypeStruct((*batch, n), np.bool_)}

    def host(values: Array) -> dict[str, Array]:
        values = np.asarray(values)
        try:
            result = compute(values)
        except ValueError:  # it is not symmetric; the arguments have been checked
            kept, uneven = screened(values)
            result = compute(kept)
            result.status[uneven] = Status.NOT_SYMMETRIC
        missing = [(0, 0)] * len(values.shape[:-2]) + [(0, n - result.x.shape[-1])]
        found = {name: np.asarray(getattr(result, name)) for name in shapes}
        found["x"], found["mask"] = np.pad(result.x, [*missing[:-1], (0, 0), missing[-1]]), np.pad(result.mask, missing)
        return {name: value.astype(shapes[name].dtype) for name, value in found.items()}

    found = call(host, shapes, jax.lax.stop_gradient(a))
    if jnp.issubdtype(a.dtype, jnp.inexact):
        wide = jnp.promote_types(dtype, jnp.float32)
        X, A = found["x"].astype(wide), a.astype(wide)
        most = jnp.nan_to_num(jnp.maximum(found["dropped_most"], 0))
        cut = jnp.where(found["rank"] > 0, (found["kept_least"] + most) / 2, 0.5).astype(X.real.dtype)
        x = lifted((A + A.conj().mT) / 2, X, cut[..., None, None], jnp.eye(n, dtype=wide))
        found["x"] = found["x"] + (x - jax.lax.stop_gradient(x)).astype(dtype)
    return OrthogonalizerResult(**found, method="eigen", certificate=certificate.kind(n))


def _traced(
    a: Array,
    power: Power,
    compute: Callable[[Array], Result],
    kind: type[Result],
    x: str,
    static: dict[str, Any],
) -> Result:
    *batch, m, n = a.shape
    dtype = a.dtype if is_inexact(power.dtype_name) else jnp.zeros((), float).dtype
    sizes = {x: (m, n), "h": (n, n)}
    shapes = {}
    for name in (f.name for f in fields(kind) if f.name not in STATIC):
        inner: tuple[int, ...] = sizes.get(name, ())
        held = dtype if inner else jax.dtypes.canonicalize_dtype(FACTS[name])
        shapes[name] = jax.ShapeDtypeStruct((*batch, *inner), held)

    def host(values: Array) -> dict[str, Array]:
        result = compute(np.asarray(values))
        return {name: np.asarray(getattr(result, name)).astype(shape.dtype) for name, shape in shapes.items()}

    found = call(host, shapes, jax.lax.stop_gradient(a))
    if is_inexact(power.dtype_name):
        usable = sum(found["status"] == int(status) for status in USABLE) > 0
        if power.s < 1:
            usable = usable & (found["rank"] == min(m, n))
        found[x] = attached(power, a, found[x], as_parts(jnp.where(usable, 0.0, jnp.nan)))
    return kind(**found, method="svd", certificate=certificate.kind(min(m, n)), **static)
