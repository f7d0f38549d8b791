"""Helpers for arrays of any library: namespace, dtype, library and device, transfer to and from the host."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
from array_api_compat import array_namespace

Array = Any


def is_array(x: Any) -> bool:
    """Return True if `x` is an array of a library that the optimizer can work on."""
    return isinstance(x, np.ndarray) or (hasattr(x, "shape") and hasattr(x, "dtype") and hasattr(x, "ndim"))


def is_jax(x: Any) -> bool:
    """Return True if `x` is a jax array, traced or not."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(x, jax.Array)


def is_traced(x: Any) -> bool:
    """Return True if `x` has no value yet because jax is tracing the step."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(x, jax.core.Tracer)


def is_torch(x: Any) -> bool:
    """Return True if `x` is a torch tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def is_cupy(x: Any) -> bool:
    """Return True if `x` is a cupy array."""
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(x, cupy.ndarray)


def namespace(x: Array) -> Any:
    """Return the array API namespace of `x`: the library itself if its functions have the standard names."""
    if isinstance(x, np.ndarray):
        return np
    if is_torch(x):
        return _torch()
    return sys.modules["jax"].numpy if is_jax(x) else array_namespace(x)


@cache
def _torch() -> Any:
    """Return the torch functions that the stages call; on small tensors the array API wrappers cost more than these."""
    torch = sys.modules["torch"]
    return SimpleNamespace(
        **{
            name: getattr(torch, name)
            for name in ("mean", "ones_like", "reshape", "sign", "sqrt", "where", "zeros_like")
        },
        **{name: getattr(torch, name) for name in ("float32", "float64", "stack", "zeros")},
        asarray=lambda x: x,  # a tensor: as_tensor would move it to the default device
        matmul=_product,
        concat=lambda arrays, axis: torch.cat(tuple(arrays), dim=axis),
        matrix_transpose=lambda x: x.mT,
        permute_dims=torch.permute,
        sum=lambda x, axis: torch.sum(x, dim=axis),
    )


def by_numpy(x: Array) -> bool:
    """Return True for a tensor whose products numpy computes: it has one thread in a step, as torch must have."""
    return is_torch(x) and x.is_cpu and sys.modules["torch"].get_num_threads() == 1


def _product(a: Any, b: Any) -> Any:
    """Compute a @ b of tensors; by numpy where it may: its BLAS takes half the time of MKL on an AMD processor."""
    torch = sys.modules["torch"]
    if by_numpy(a) and a.dtype in (torch.float32, torch.float64):
        return torch.from_numpy(np.matmul(to_host(a), to_host(b)))
    return (torch.bmm if a.ndim == b.ndim == 3 and a.shape[0] == b.shape[0] else torch.matmul)(a, b)


def linalg(x: Array) -> Any:
    """Return the module with `eigh` and `qr` for stacks of matrices like `x`."""
    return sys.modules["torch"].linalg if is_torch(x) else namespace(x).linalg


def dtype_name(x: Array) -> str:
    """Return the bare name of the dtype of `x`: "float32", "bfloat16", ..."""
    return _bare_name(x.dtype)


@cache
def _bare_name(dtype: Any) -> str:
    return str(getattr(dtype, "name", None) or dtype).rsplit(".", 1)[-1]


def state_dtype(x: Array, path: str) -> str:
    """Return the dtype of the statistics of the parameter `x`: its own dtype, at least float32."""
    name = dtype_name(x)
    if not name.startswith(("float", "bfloat")):
        raise TypeError(f"parameter {path!r} must be real floating point, got {name}")
    return "float64" if name == "float64" else "float32"


def place(x: Array) -> str:
    """Return the library and the device of `x`; only arrays with the same value can be stacked."""
    if isinstance(x, np.ndarray | np.generic):
        return "numpy"
    if is_jax(x):
        return "jax"  # jax moves arrays itself, and a traced array has no device
    if is_torch(x):
        return _place_of_torch(x.device)
    return f"{type(x).__module__.partition('.')[0]}:{x.device}"


@cache
def _place_of_torch(device: Any) -> str:
    return f"torch:{device}"


def on_host(x: Array) -> bool:
    """Return True if the values of `x` are in host memory; a traced array has no values and gives True."""
    if is_cupy(x):
        return False
    if is_torch(x):
        return bool(x.device.type == "cpu")
    return not is_jax(x) or is_traced(x) or all(device.platform == "cpu" for device in x.devices())


def check_device(x: Array, path: str) -> None:
    """Raise if `x` is a cupy array on a device other than the current one, where cupy would put its results."""
    if is_cupy(x):
        here = sys.modules["cupy"].cuda.Device().id
        if x.device.id != here:
            raise ValueError(
                f"{path!r} must be on cupy's current device {here}, got device {x.device.id}; "
                f"work inside `with cupy.cuda.Device({x.device.id}):`"
            )


def cast(x: Array, dtype: str) -> Array:
    """Return `x` in the named dtype, `x` itself if it has that dtype; jax without x64 gives float32 for float64."""
    if is_jax(x):
        dtype = sys.modules["jax"].dtypes.canonicalize_dtype(dtype).name
    if dtype_name(x) == dtype:
        return x
    if is_torch(x):
        return x.to(getattr(sys.modules["torch"], dtype))
    return x.astype(dtype)


def to_host(x: Array) -> Any:
    """Return `x` as numpy, without a copy if it is on the CPU. No other function here waits for the device."""
    if isinstance(x, np.ndarray):
        return x
    if is_torch(x):
        x = x.detach() if x.requires_grad else x
        return (x if x.is_cpu else x.cpu()).numpy()
    if hasattr(x, "get"):
        return x.get()
    return np.asarray(x)


def stacked(tensors: Sequence[Any]) -> Any:
    """Return tensors of one dtype as one stack in numpy, 10 times as fast as one by one."""
    torch, first = sys.modules["torch"], tensors[0]
    if first.is_cpu and set(map(torch.Tensor.dim, tensors)) == {0}:  # again twice as fast
        return np.fromiter(map(torch.Tensor.item, tensors), to_host(first).dtype, len(tensors))
    return to_host(torch.stack(tuple(tensors)))


def like(values: Any, x: Array) -> Array:
    """Return numpy `values` as an array of the library and on the device of `x`."""
    if isinstance(x, np.ndarray):
        return values
    if is_torch(x):
        found = sys.modules["torch"].from_numpy(np.asarray(values, order="C"))
        return found if x.is_cpu else found.to(x.device)  # which takes longer than all else here
    if is_jax(x):
        return _like_jax(values, x)
    return namespace(x).asarray(values)


def likes(values: Iterable[Any], x: Array) -> Iterator[Array]:
    """Return what `like` returns for each of many contiguous numpy arrays, in less time for tensors on the CPU."""
    if is_torch(x) and x.is_cpu:
        return map(sys.modules["torch"].from_numpy, values)
    return (like(value, x) for value in values)


def _like_jax(values: Any, x: Array) -> Array:
    """Put `values` on the device of `x` if `x` is committed to one; otherwise leave the placement to jax."""
    jax = sys.modules["jax"]
    if is_traced(x) or not getattr(x, "committed", False) or len(x.devices()) != 1:
        return jax.numpy.asarray(values)
    return jax.device_put(values, *x.devices())


def zeros(shape: Sequence[int], dtype: str, x: Array) -> Array:
    """Return zeros of the library and on the device of `x`."""
    if isinstance(x, np.ndarray | np.generic):
        return np.zeros(shape, dtype)
    xp = namespace(x)
    if is_jax(x):
        return _like_jax(xp.zeros(tuple(shape), dtype=dtype), x)
    return xp.zeros(tuple(shape), dtype=getattr(xp, dtype), device=x.device)


def copy(x: Array) -> Array:
    """Return a copy that shares no memory with `x`."""
    if is_torch(x):
        return x.detach().clone()
    return x if is_jax(x) else x.copy()


def lerp(old: Array, new: Array, beta: Any, donate: bool) -> Array:
    """Compute ``beta * old + (1 - beta) * new``; overwrite `old` if `donate`."""
    if is_torch(old):  # in one pass
        return old.lerp_(new, 1.0 - beta) if donate else old.lerp(new, 1.0 - beta)
    if donate:
        old *= beta
    else:
        old = old * beta
    old += (1.0 - beta) * new
    return old


def squared_norm(x: Array) -> Array:
    """Compute the sum of squares as a 0-d array (numpy: a float), in one pass, with BLAS where available."""
    if isinstance(x, np.ndarray):
        flat = x.reshape(-1)
        return flat.dot(flat)
    if is_jax(x):  # no reshape, which would gather a sharded array
        return sys.modules["jax"].numpy.tensordot(x, x, x.ndim)
    flat = x.reshape(-1)
    if is_torch(flat):
        return flat.dot(flat)
    return flat @ flat if flat.shape[0] else (flat * flat).sum()


def largest(x: Array) -> Array:
    """Return the largest entries along the last dimension."""
    return x.amax(-1) if is_torch(x) else x.max(-1)


def stack_scalars(values: Sequence[Any], x: Array) -> Array:
    """Stack scalars (0-d arrays; numpy: floats) into one vector on the device of `x`."""
    if isinstance(x, np.ndarray):
        return np.asarray(values)
    return namespace(x).stack(tuple(values))


def scalars(x: Array) -> list[Any]:
    """Return the entries of a vector as 0-d arrays (numpy: floats)."""
    return list(x.unbind() if is_torch(x) else x)


def norms_in_place(arrays: Sequence[Any]) -> Sequence[Any]:
    """Return norms as 0-d arrays (numpy: floats) where the arrays are."""
    if arrays and is_torch(arrays[0]):
        torch = sys.modules["torch"]
        together = len({x.device for x in arrays}) == 1  # one call for all
        return list(torch._foreach_norm(arrays) if together else map(torch.linalg.vector_norm, arrays))
    return [namespace(x).sqrt(squared_norm(x)) for x in arrays]


def norms_of(arrays: Sequence[Any]) -> Any:
    """Compute norms as float64 on the host, with one transfer per device; a norm is not finite if an entry is not.

    A sum of squares that leaves the range of the dtype is computed again from entries divided by a power of two.
    """
    places: dict[str, list[int]] = {}
    for k, x in enumerate(arrays):
        places.setdefault(place(x), []).append(k)
    result = np.zeros(len(arrays))
    for found in places.values():
        result[found] = _norms_of_one_place([arrays[k] for k in found])
    return result


def _norms_of_one_place(arrays: Sequence[Any]) -> Any:
    here, sizes, most = on_host(arrays[0]), norms_in_place(arrays), None
    if not here:  # one transfer also brings the largest values, which show what is not finite
        sizes = [*sizes, *map(_largest, arrays)]
    norms = np.asarray(to_host(stack_scalars(sizes, arrays[0])), np.float64)
    if not here:
        norms, most = np.split(norms, 2)
    usual = (norms > SMALL_NORM) & (norms < math.inf)
    if np.count_nonzero(usual) < len(usual):
        norms = norms.copy()
        for k in np.flatnonzero(~usual).tolist():
            largest = _largest(arrays[k]) if most is None else most[k]
            norms[k] = _norm_of_extremes(arrays[k], float(to_host(largest)))
    return norms


#: Above this norm, a float32 holds the square with all digits.
SMALL_NORM = 2.0**-50


def _largest(x: Array) -> Array:
    """Return the largest absolute value, 0 for an empty array, as a 0-d array of the dtype of `squared_norm`."""
    return abs(x).max() if 0 not in x.shape else squared_norm(x)


def _norm_of_extremes(x: Array, largest: float) -> float:
    if largest == 0 or not math.isfinite(largest):
        return largest
    power = math.frexp(largest)[1]
    half = power // 2  # 2^-power need not be a float32
    return math.ldexp(float(to_host(squared_norm(x * 2.0**-half * 2.0 ** (half - power)))) ** 0.5, power)
