"""Matrices of unequal sizes in one call, and one call in two."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import fields, replace
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from matroot._result import A, RootResult
from matroot._solve import exponent_of, planned, solve
from matroot.backends.arrays import check_square, library_of, take
from matroot.backends.holds import confined
from matroot.backends.keywords import advise
from matroot.backends.streams import side_by_side
from matroot.pipeline.kernel import begin_fused, in_halves
from matroot.pipeline.lone import LoneLarge, alone

Array = Any


def solve_each(arrays: Iterable[A], /, p: int | None = None, **options: Any) -> list[RootResult[A]]:
    """Solve for arrays of any sizes: arrays of equal size are stacked into one batch, and each gets its own result.

    All matrices of one size, dtype and device form one batch, whereas a loop over `solve` would solve the matrices one
    by one. On a GPU, batches of cupy arrays and torch tensors run concurrently on separate streams, which are ordered
    with the caller's stream.

    Parameters
    ----------
    arrays : iterable of arrays (..., n, n)
        Of one library or several, each with its own n and batch dimensions. Never written to.
    p : int
        Degree of the root, positive; or `s` among the options.
    **options
        As of `solve`.

    Returns
    -------
    list of RootResult
        In the order of `arrays`. Fields with one value per batch (`n_products`, `method`) have the value of the stack.

    Raises
    ------
    TypeError, ValueError
        An argument is wrong; the message names the value and what is allowed.

    Examples
    --------
    >>> import numpy as np
    >>> from matroot import solve_each
    >>> first, second = solve_each([np.eye(2) * 4, np.eye(3) * 9], 2)
    >>> print(np.diag(first.x), np.diag(second.x).round(4))
    [0.5 0.5] [0.3333 0.3333 0.3333]
    """
    arrays = list(arrays)
    groups: dict[Any, list[int]] = {}
    for i, a in enumerate(arrays):
        groups.setdefault(_kind(a, i), []).append(i)
    by_device: dict[Any, list[list[int]]] = {}
    for (library, device, _, _), members in groups.items():
        by_device.setdefault((library, device), []).append(members)
    results: dict[int, RootResult[Any]] = {}
    for lists in by_device.values():
        stacks = [_stacked([arrays[i] for i in members]) for members in lists]
        pieces = [partial(solve, stack, p, **options) for stack in stacks]
        for members, result in zip(lists, side_by_side(pieces, stacks[0]), strict=True):
            batches = [tuple(arrays[i].shape[:-2]) for i in members]
            results |= zip(members, _split(result, batches), strict=True)
    return [results[i] for i in range(len(arrays))]


def _kind(a: Array, i: int) -> tuple[Any, ...]:
    """Return the key that arrays of one batch share: library, device, dtype and n."""
    library = library_of(a)
    if library is None:
        raise TypeError(f"arrays[{i}] must be an array (numpy, cupy, torch, jax or any DLPack array), got {a!r:.40}")
    shape = tuple(a.shape)
    check_square(shape, f"arrays[{i}]")
    return library, str(getattr(a, "device", "")), str(a.dtype), shape[-1]


def _stacked(arrays: list[Array]) -> Array:
    """Stack the arrays to (B, n, n) in their own library; return a single array unchanged."""
    if len(arrays) == 1:
        return arrays[0]
    xp = _namespace(arrays[0])
    n = arrays[0].shape[-1]
    concat = xp.concatenate if hasattr(xp, "concatenate") else xp.concat
    with arrays[0].device if library_of(arrays[0]) == "cupy" else nullcontext():  # cupy's current device may differ
        return concat([xp.reshape(a, (math.prod(a.shape[:-2]), n, n)) for a in arrays], axis=0)


def _split(result: RootResult[Any], batches: list[tuple[int, ...]]) -> list[RootResult[Any]]:
    """Split the result of a stack into the results of its arrays, by their batch dimensions."""
    if len(batches) == 1:
        return [result]
    xp = _namespace(result.x)
    arrays = {f.name: getattr(result, f.name) for f in fields(result)}
    arrays = {name: value for name, value in arrays.items() if getattr(value, "ndim", 0)}
    found, start = [], 0
    for batch in batches:
        end = start + math.prod(batch)
        mine = {name: xp.reshape(v[start:end, ...], (*batch, *v.shape[1:])) for name, v in arrays.items()}
        found.append(replace(result, **mine))
        start = end
    return found


def _namespace(a: Array) -> Any:
    return sys.modules["cupy"] if library_of(a) == "cupy" else array_namespace(a)


def solve_in_two(a: A, /, p: int | None = None, **options: Any) -> Callable[[], RootResult[A]]:
    """Do the first half of a solve for an inverse p-th root, and return the function that does the second.

    For programs that have other work to do between them. There are halves of about equal cost where `Tridiagonal`
    solves a stack of real matrices of numpy by LAPACK, which is above n = 64, or above n = 35 for a lone matrix: the
    reduction to tridiagonal form, and the way back. Elsewhere the function does everything. The result is that of
    `solve` in any case, to the last bit.

    Parameters
    ----------
    a : array (..., n, n)
        Must not change before the second half.
    p : int
    **options
        As of `solve`; an `rtol`, `s` and `inverse` leave no halves.

    Returns
    -------
    function
        To be called once.

    Examples
    --------
    >>> import numpy as np
    >>> from matroot import solve_in_two
    >>> A = np.diag(np.arange(1.0, 101.0))[None]
    >>> finish = solve_in_two(A, 3)
    >>> bool(np.allclose(finish().x[0].diagonal(), np.arange(1, 101) ** (-1 / 3)))
    True
    """
    whole = partial(solve, a, p, **options)
    halves = isinstance(a, np.ndarray) and a.ndim > 2 and a.size and not {"s", "inverse"} & set(options)
    return _begun(a, exponent_of(p, True), options, whole) if halves else whole


@confined
def _begun(a: Array, s: Fraction, options: dict[str, Any], whole: Callable[[], Any]) -> Callable[[], RootResult[Any]]:
    values, origin = take(a)
    try:
        job, fused = planned(values, origin, s, **options)
    except TypeError:
        advise(solve, options)
        raise
    if fused is None:
        return whole
    stack, batch = values.reshape(-1, *a.shape[-2:]), a.shape[:-2]
    one = alone(fused, values, origin)
    if isinstance(one, LoneLarge) and in_halves(stack, fused):
        begun = one.begin(stack[0])
        return confined(lambda: one.solve(stack[0], origin, batch, begun))
    rest = begin_fused(stack, fused)
    return whole if rest is None else confined(lambda: rest().result(batch, job))
