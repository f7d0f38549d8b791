"""Elementwise operations on lists of arrays: one call for the whole list in torch, one call per array elsewhere.

The arrays of a list have one library, one device and one dtype.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from matroot_optim.arrays import Array, dtype_name, is_torch, lerp, namespace

Arrays = Sequence[Array]


def lerp_all(old: Arrays, new: Arrays, beta: Any, donate: bool) -> list[Array]:
    """Compute ``beta * old + (1 - beta) * new``; overwrite the arrays of `old` if `donate`."""
    if old and is_torch(old[0]):
        torch = sys.modules["torch"]
        if not donate:
            return list(torch._foreach_lerp(old, new, 1.0 - beta))
        torch._foreach_lerp_(old, new, 1.0 - beta)
        return list(old)
    return [lerp(x, y, beta, donate) for x, y in zip(old, new, strict=True)]


def add_all(old: Arrays, new: Arrays, beta: Any, donate: bool) -> list[Array]:
    """Compute ``beta * old + new``; overwrite the arrays of `old` if `donate`."""
    if old and is_torch(old[0]):
        result = _scaled_in_torch(old, beta, donate)
        sys.modules["torch"]._foreach_add_(result, new)
        return result
    return [_added(x, y, beta, donate) for x, y in zip(old, new, strict=True)]


def add_squares_all(old: Arrays, new: Arrays, beta: float, donate: bool) -> list[Array]:
    """Compute ``beta * old + w * new^2`` with w = 1 - beta, or 1 if beta is 1; overwrite `old` if `donate`."""
    weight = 1.0 - beta if beta < 1.0 else 1.0
    if old and is_torch(old[0]):
        torch = sys.modules["torch"]
        if beta < 1.0:
            return lerp_all(old, torch._foreach_mul(new, new), beta, donate)
        if not donate:
            return list(torch._foreach_addcmul(old, new, new))
        torch._foreach_addcmul_(old, new, new)
        return list(old)
    result = []
    for x, y in zip(old, new, strict=True):
        square = y * y
        square *= weight
        result.append(_added(x, square, beta, donate))
    return result


def _scaled_in_torch(old: Arrays, beta: Any, donate: bool) -> list[Array]:
    torch, factor = sys.modules["torch"], _number(beta, old[0])
    if not donate:
        return list(torch._foreach_mul(old, factor))
    torch._foreach_mul_(old, factor)
    return list(old)


def _number(value: Any, x: Any) -> Any:
    """Return a number for tensors like x: on a CPU as a 0-d tensor, since torch makes one for each of a list."""
    if x.device.type != "cpu" or not isinstance(value, float):
        return value
    return sys.modules["torch"].scalar_tensor(value, dtype=x.dtype, device=x.device)


def _numbers(values: list[Any], x: Any) -> Any:
    """Return numbers for tensors like x, one for each or one for all."""
    if x.device.type != "cpu" or not isinstance(values[0], float):
        return values
    if values.count(values[0]) == len(values):
        return _number(values[0], x)
    return sys.modules["torch"].from_numpy(np.array(values, dtype_name(x))).unbind()


def _added(x: Array, y: Array, beta: Any, donate: bool) -> Array:
    if not donate:
        return x * beta + y
    x *= beta
    x += y
    return x


def times_all(arrays: Arrays, factors: list[Any]) -> list[Array]:
    """Return new arrays, each multiplied by its factor."""
    if arrays and is_torch(arrays[0]):
        return list(sys.modules["torch"]._foreach_mul(arrays, _numbers(factors, arrays[0])))
    return [x * factor for x, factor in zip(arrays, factors, strict=True)]


def scale_all(arrays: Arrays, factors: list[Any]) -> list[Array]:
    """Multiply each array by its factor, in place if the library allows."""
    if arrays and is_torch(arrays[0]):
        sys.modules["torch"]._foreach_mul_(arrays, _numbers(factors, arrays[0]))
        return list(arrays)
    result = []
    for x, factor in zip(arrays, factors, strict=True):
        x *= factor
        result.append(x)
    return result


def plus_all(arrays: Arrays, others: Arrays, sign: int = 1) -> list[Array]:
    """Add to each array another, or subtract it for a `sign` of -1; in place if the library allows."""
    if arrays and is_torch(arrays[0]):
        sys.modules["torch"]._foreach_add_(arrays, others, alpha=sign)
        return list(arrays)
    result = []
    for x, y in zip(arrays, others, strict=True):
        if sign > 0:
            x += y
        else:
            x -= y
        result.append(x)
    return result


def agree_all(arrays: Arrays, others: Arrays) -> list[Array]:
    """Return 1 where an array has the sign of another, else 0, in new arrays; no product underflows."""
    if arrays and is_torch(arrays[0]):  # in place: an array of its own for each of these takes most of the time
        torch = sys.modules["torch"]
        found = torch._foreach_sign(others)
        torch._foreach_mul_(found, arrays)
        torch._foreach_sign_(found)
        torch._foreach_clamp_min_(found, 0.0)
        return list(found)
    result = []
    for x, y in zip(arrays, others, strict=True):
        xp = namespace(x)
        result.append(xp.where(x * xp.sign(y) > 0, xp.ones_like(x), xp.zeros_like(x)))
    return result


def in_one_pass(x: Array) -> bool:
    """Return True if `adam_all` takes arrays like x: tensors of torch's own kernel."""
    if not is_torch(x) or x.device.type not in ("cpu", "cuda"):
        return False
    return hasattr(sys.modules["torch"], "_fused_adam_")  # it is not public


def in_order(arrays: Arrays, donate: bool) -> list[Array]:
    """Return tensors that may be overwritten and are contiguous: those that are both, and copies of the others."""
    order = sys.modules["torch"].contiguous_format
    return [x.contiguous() if donate else x.clone(memory_format=order) for x in arrays]


def adam_all(
    new: Arrays, means: Arrays, squares: Arrays, betas: tuple[Any, float], floors: list[Any], factors: list[Any]
) -> list[Array]:
    """Update decayed means of `new`, and of its squares, and compute ``factor * mean / (sqrt(square) + floor)``.

    `means` and `squares` are overwritten, in the pass over memory that computes the result, and must be `in_order`.
    """
    torch = sys.modules["torch"]
    sizes = [x.numel() for x in new]
    one = torch.zeros(sum(sizes), dtype=new[0].dtype, device=new[0].device)  # one piece is allocated faster than many
    steps = [
        part if x.ndim == 1 else part.view(x.shape) for part, x in zip(one.split_with_sizes(sizes), new, strict=True)
    ]
    never = torch.full((), float("inf"), device=new[0].device)  # after as many steps no bias is left to correct
    how = {"beta1": betas[0], "beta2": betas[1], "weight_decay": 0.0, "amsgrad": False, "maximize": False}
    for x, g, m, v, floor, factor in zip(steps, new, means, squares, floors, factors, strict=True):
        torch._fused_adam_([x], [g.contiguous()], [m], [v], [], [never], lr=-factor, eps=floor, **how)
    return steps


def over_roots_all(top: Arrays, squares: Arrays, floors: list[Any], factors: list[Any]) -> list[Array]:
    """Compute ``factor * top / (sqrt(square) + floor)`` in new arrays."""
    if top and is_torch(top[0]):
        torch = sys.modules["torch"]
        bottom = torch._foreach_sqrt(squares)
        torch._foreach_add_(bottom, _numbers(floors, bottom[0]))
        torch._foreach_div_(bottom, _numbers(factors, bottom[0]))
        return [torch.div(x, y, out=y) for x, y in zip(top, bottom, strict=True)]
    result = []
    for x, v, floor, factor in zip(top, squares, floors, factors, strict=True):
        bottom = namespace(v).sqrt(v)
        bottom += floor
        bottom /= factor
        result.append(x / bottom)
    return result
