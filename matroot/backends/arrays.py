"""Conversion of the caller's array to numpy or cupy, and of results back to its kind, dtype and device.

A library is looked up in ``sys.modules`` and never imported for the caller: if the caller has an array of the library,
it is loaded already.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

Array = Any

#: Bits of the significand, including the hidden bit, of dtypes narrower than float64. Tensor cores round float32 to
#: tf32.
_BITS = {"float16": 11, "bfloat16": 8, "tf32": 11, "float32": 24, "complex64": 24}

#: Precisions to which tensor cores may round the factors of float32 products.
ROUNDED = ("tf32", "bfloat16")

#: Exponents of the smallest normal numbers.
_LOWEST = {"float16": -14, "bfloat16": -126, "float32": -126, "complex64": -126}

HALVES = ("float16", "bfloat16")

#: Wider dtype by name, for the dtypes in which numpy or BLAS cannot compute.
_WIDER = {"float16": "float32", "bfloat16": "float32"}


@dataclass(frozen=True)
class Origin:
    """Origin of an array: the information needed to return a result of the same kind, dtype and device."""

    library: str
    dtype: Any
    device: Any

    @property
    def dtype_name(self) -> str:
        """Bare name of the dtype: "float32", "bfloat16", ..."""
        return dtype_name(self.dtype)

    def give_back(self, values: Array, *, as_input: bool = True) -> Array:
        """Convert `values` (numpy or cupy) to the caller's library and, if `as_input`, to the caller's dtype."""
        return _GIVE[self.library](values, self, as_input)


@lru_cache(maxsize=128, typed=True)  # numpy rebuilds the name each time; dtypes of two libraries must not compare
def dtype_name(dtype: Any) -> str:
    """Return the bare name of a dtype of any library."""
    return str(getattr(dtype, "name", None) or dtype).rsplit(".", 1)[-1]


def unit_roundoff(name: str) -> float:
    """Return half the distance from 1 to the next number, by the name of a dtype."""
    return 2.0 ** -_BITS.get(name, 53)


def readable(name: str) -> str:
    """Return the dtype in which numpy holds the numbers of a dtype, by name."""
    return _WIDER.get(name, name)


def take(a: Array, name: str = "a") -> tuple[Array, Origin]:
    """Convert `a` to the array to compute on (a read-only view where possible), and return it with its `Origin`.

    CPU arrays become numpy arrays, CUDA arrays cupy arrays; half precisions unknown to numpy become float32. TypeError
    if `a` is not an array of a known library, or is traced by a compiler.
    """
    library = library_of(a)
    if library is None:
        a, library = _converted(a, name), "numpy"
    return _take_numpy(a, name) if library == "numpy" else _TAKE[library](a)


def _converted(a: Any, name: str) -> np.ndarray:
    """Return nested sequences, data frames and the like as a numpy array."""
    hint = ""
    if isinstance(a, list | tuple) or (hasattr(a, "__array__") and not isinstance(a, str | bytes)):
        for part in a if isinstance(a, list | tuple) else ():
            _check_mask(part, f"a part of {name}")  # numpy drops it
        try:
            values = np.asarray(a)
        except ValueError as ragged:
            what = f"{name} must be an array, got a {type(a).__name__}: {str(ragged).rstrip('.')}"
            raise TypeError(f"{what}; matrices of unequal sizes are for solve_each") from None
        if values.dtype.kind in "fciub":
            return values
        hint = f" of other things than numbers; convert it by numpy.array({name}, float)"
    if hasattr(a, "to_numpy"):
        hint = f" whose columns are not all numbers of numpy's dtypes; convert it by {name}.to_numpy(float)"
    elif hasattr(a, "toarray"):
        vectors = ", or solve_apply for a root times vectors" if name == "a" else ""
        hint = f"; use {name}.toarray(){vectors}"
    elif hasattr(a, "matvec"):
        hint = "; solve_apply takes operators, and computes a root times vectors"
    raise TypeError(
        f"{name} must be an array (numpy, cupy, torch, jax or any DLPack array) or nested lists of numbers, got "
        f"{type(a).__name__}{hint}"
    )


def _check_mask(a: Any, name: str) -> None:
    if isinstance(a, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, and a root needs all entries: use a.filled(...)")


def check_numbers(dtype: np.dtype[Any], origin: Origin, name: str = "a") -> None:
    """Raise TypeError unless a dtype, that of `take`, holds real or complex numbers of float64 precision at most."""
    if dtype.kind not in "fciu" or dtype.itemsize > (16 if dtype.kind == "c" else 8):
        hint = f"; convert it by {name}.astype(float)" if dtype.kind in "bOUS" else ""
        found = f"got dtype {origin.dtype_name}{hint}"
        raise TypeError(f"{name} must be real or complex, of float64 precision at most, {found}")


def check_square(shape: tuple[int, ...], name: str = "a") -> None:
    """Raise ValueError unless this is the shape of square matrices."""
    if len(shape) < 2:
        raise ValueError(f"{name} must be (..., n, n), got {tuple(shape)}")
    if shape[-1] != shape[-2]:
        raise ValueError(
            f"{name} must be (..., n, n), got {tuple(shape)}; the covariance of samples in rows is "
            f"numpy.cov({name}, rowvar=False), and rectangular matrices have polar and spectral_power"
        )


def library_of(a: Array) -> str | None:
    """Return "numpy", "cupy", "torch", "jax", "dlpack" for another array library, or None if `a` is not an array."""
    if isinstance(a, np.ndarray):
        return "numpy"
    for module, attribute in (("torch", "Tensor"), ("cupy", "ndarray"), ("jax", "Array")):
        kind = getattr(sys.modules.get(module), attribute, None)
        if kind is not None and isinstance(a, kind):
            return module
    return "dlpack" if hasattr(a, "__dlpack__") and hasattr(a, "shape") else None


def transformed_by(a: Array) -> str | None:
    """Return "torch" if torch records or transforms what is done with `a`, "jax" if jax traces it, else None."""
    if isinstance(a, np.ndarray):
        return None
    torch, jax = sys.modules.get("torch"), sys.modules.get("jax")
    if torch is not None and isinstance(a, torch.Tensor):
        recorded = a.requires_grad and torch.is_grad_enabled()
        forward = torch.autograd.forward_ad
        dual = forward._current_level >= 0 and forward.unpack_dual(a).tangent is not None
        return "torch" if recorded or dual or not has_values(a) else None
    return "jax" if jax is not None and not has_values(a) else None


def has_values(a: Array) -> bool:
    """Return False for what jax traces, and for tensors inside of a transformation of torch.func."""
    if isinstance(a, np.ndarray):
        return True
    torch, jax = sys.modules.get("torch"), sys.modules.get("jax")
    if torch is not None and isinstance(a, torch.Tensor):
        return not torch._C._functorch.is_functorch_wrapped_tensor(a)
    tracer = getattr(getattr(jax, "core", None), "Tracer", ())
    return not isinstance(a, tracer)


def smallest_normal(name: str) -> float:
    """Return the smallest normal number, by the name of a dtype."""
    return 2.0 ** _LOWEST.get(name, -1022)


def _readable(a: np.ndarray) -> np.ndarray:
    name = dtype_name(a.dtype)
    if name in _WIDER:
        return a.astype(_WIDER[name])
    return a if a.dtype.isnative else a.astype(a.dtype.newbyteorder("="))


def _take_numpy(a: Any, name: str) -> tuple[Array, Origin]:
    _check_mask(a, name)
    return _readable(np.asarray(a)), _numpy_origin(a.dtype)


@lru_cache(maxsize=64, typed=True)
def _numpy_origin(dtype: np.dtype[Any]) -> Origin:
    return Origin("numpy", dtype, None)


def _take_cupy(a: Any) -> tuple[Array, Origin]:
    name, origin = dtype_name(a.dtype), Origin("cupy", a.dtype, a.device)
    if name not in _WIDER:
        return a, origin
    with a.device:
        return a.astype(_WIDER[name]), origin


def _take_torch(a: Any) -> tuple[Array, Origin]:
    torch = sys.modules["torch"]
    if a.requires_grad and torch.is_grad_enabled():
        raise ValueError("this function does not differentiate: pass a.detach(), or work under torch.no_grad()")
    if a.layout != torch.strided:
        raise TypeError(f"a must be a dense tensor, got layout {a.layout}; use a.to_dense()")
    origin = Origin("torch", a.dtype, a.device)
    wide = a.detach()
    if a.dtype in (torch.float16, torch.bfloat16):
        wide = wide.to(torch.float32)
    wide = wide.resolve_conj().resolve_neg()
    if a.device.type == "cpu":
        return wide.numpy(), origin
    if a.device.type == "cuda":
        return _cupy_from(wide), origin
    raise TypeError(f"a is on the {a.device.type} device; matroot computes on cpu and cuda: use a.cpu()")


def _take_jax(a: Any) -> tuple[Array, Origin]:
    jax = sys.modules["jax"]
    if isinstance(a, jax.core.Tracer):
        raise TypeError(
            "a is traced by jax (jit, grad or vmap), and this function needs concrete values; roots, powers, solve, "
            "polar, spectral_power and derivatives can be traced"
        )
    (device, *others) = a.devices()
    if others:
        raise TypeError(f"a is sharded over {len(others) + 1} devices; gather it on one first")
    origin = Origin("jax", a.dtype, device)
    if device.platform == "cpu":
        return _readable(np.asarray(a)), origin
    name = dtype_name(a.dtype)
    return _cupy_from(a.astype(_WIDER[name]) if name in _WIDER else a), origin


def _take_dlpack(a: Any) -> tuple[Array, Origin]:
    device, _ = a.__dlpack_device__()
    origin = Origin("dlpack", a.dtype, a)
    if int(device) == 1:  # kDLCPU
        return _readable(np.from_dlpack(a)), origin
    return _cupy_from(a), origin


def _cupy_from(a: Any) -> Any:
    try:
        import cupy
    except ImportError as missing:
        raise RuntimeError(
            "a is on a CUDA device, and computing there needs cupy: pip install 'matroot[cuda13]' (or cuda12), "
            "or move it to the cpu"
        ) from missing
    return cupy.from_dlpack(a)


def _typed(values: Array, origin: Origin, as_input: bool) -> Array:
    """Cast to the caller's dtype and byte order where numpy (or cupy) can; results of integer input stay float."""
    if not as_input or origin.dtype == values.dtype or not is_inexact(origin.dtype_name):
        return values
    with np.errstate(over="ignore"):
        return values.astype(origin.dtype)


def _give_torch(values: Array, origin: Origin, as_input: bool) -> Array:
    torch = sys.modules["torch"]
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else torch.from_dlpack(values)
    return tensor.to(origin.dtype) if as_input and is_inexact(origin.dtype_name) else tensor


def _give_jax(values: Array, origin: Origin, as_input: bool) -> Array:
    jax = sys.modules["jax"]
    if not isinstance(values, np.ndarray):
        array = jax.dlpack.from_dlpack(values)
        return array.astype(origin.dtype) if as_input and is_inexact(origin.dtype_name) else array
    # Without x64, jax has no float64: cast to the caller's float32 here, before jax does it silently.
    typed = _typed(values, origin, as_input)
    if not jax.config.jax_enable_x64 and typed.dtype in (np.float64, np.complex128):
        with np.errstate(over="ignore"):
            typed = typed.astype(np.float32 if typed.dtype == np.float64 else np.complex64)
    return jax.device_put(typed, origin.device)


def _give_dlpack(values: Array, origin: Origin, as_input: bool) -> Array:
    like = origin.device
    xp = like.__array_namespace__()
    device = getattr(like, "device", None)
    dtype = like.dtype if as_input and is_inexact(origin.dtype_name) else getattr(xp, values.dtype.name)
    return xp.asarray(values, dtype=dtype, device=device)


def with_nan(x: Array, status: Array, codes: Sequence[int]) -> Array:
    """Return `x` with NaN where the status is one of `codes`, by functions that the library can differentiate."""
    bad = status == int(codes[0])
    for code in codes[1:]:
        bad = bad | (status == int(code))
    library = library_of(x)
    if library == "torch":
        return x.masked_fill(bad[..., None, None], float("nan"))
    xp = sys.modules["jax"].numpy if library == "jax" else sys.modules[library] if library == "cupy" else np
    return xp.where(bad[..., None, None], xp.nan, x).astype(x.dtype)


def is_inexact(name: str) -> bool:
    """Return True if a dtype name is that of a real or complex float."""
    return name.startswith(("float", "bfloat", "complex"))


_TAKE = {
    "cupy": _take_cupy,
    "torch": _take_torch,
    "jax": _take_jax,
    "dlpack": _take_dlpack,
}
_GIVE = {
    "numpy": _typed,
    "cupy": _typed,
    "torch": _give_torch,
    "jax": _give_jax,
    "dlpack": _give_dlpack,
}


def round_to(values: Array, name: str) -> Array:
    """Round float32 `values` to a half precision, still as float32; other precisions are returned unchanged."""
    if name == "float16":
        with np.errstate(over="ignore"):
            return values.astype(name).astype("float32")
    if name == "bfloat16":  # drop 16 bits, to nearest, ties to even; a carry into the exponent is correct
        bits = values.view("uint32")
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        return rounded.astype("uint32").view("float32")
    return values
