"""The entries of a checkpoint, read and checked together where they are alike.

A checkpoint comes from a file, or from a dict that a user may have edited. So every value is checked, and a wrong
value raises a ValueError that names its entry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np

from matroot_optim.arrays import is_torch, stacked, to_host
from matroot_optim.layout.trees import join
from matroot_optim.step.statistics import order_of

#: Larger than every step; differences of two steps fit in int64.
FOREVER = 2**62
#: The entries of a checkpoint by name, and those of its parameters by path and by name without the path.
Names = dict[str, Any]
Entries = dict[str, dict[str, Any]]
#: A path, and a prefix of names without the path.
Key = tuple[str, str]


def must(what: str, got: Any) -> ValueError:
    """Return the error of a checkpoint that is not as it must be."""
    text = got if isinstance(got, str) else repr(got)
    return ValueError(f"the checkpoint must {what}, got {text if len(text) < 200 else text[:200] + '...'}")


def on_host(name: str, x: Any) -> Any:
    """Return an entry as numpy."""
    try:
        if isinstance(x, np.ndarray | np.generic):
            return np.asarray(x)
        if is_torch(x):
            return to_host(x)
    except (TypeError, RuntimeError, ValueError):  # sparse, without data, or a dtype that numpy lacks
        pass
    raise must(f"have an array of numbers as {name!r}", f"{type(x).__name__} {getattr(x, 'dtype', '')}".strip())


class Column(NamedTuple):
    """Entries of one name of many parameters or roots, and where they are: paths and prefixes of the name."""

    values: Sequence[Any]
    at: Sequence[Key]
    part: str

    def name(self, k: int) -> str:
        """Return the name of one of the entries."""
        return join(*self.at[k], self.part)


def columns(entries: Entries, at: Sequence[Key], parts: Sequence[str]) -> dict[str, Column]:
    """Return entries by their names, for these paths and prefixes of names.

    They are read parameter by parameter, as they lie in memory: name by name takes three times as long.
    """
    names = {prefix: [join(prefix, part) for part in parts] for prefix in {prefix for _, prefix in at}}
    rows = [map(entries[path].__getitem__, names[prefix]) for path, prefix in at]
    values = zip(*rows, strict=True) if rows else repeat(())
    return {part: Column(found, at, part) for part, found in zip(parts, values, strict=False)}


def _together(column: Column, shape: tuple[int, ...], kind: str, words: str) -> Any:
    """Return the entries of a column, all of this shape and kind of dtype, as one new stack."""
    found = column.values
    if found and is_torch(found[0]) and len(set(map(type, found))) == 1 and len({x.dtype for x in found}) == 1:
        with suppress(RuntimeError, TypeError):  # what cannot be stacked is named below
            stack = stacked(found)
            if stack.shape[1:] == shape and _is_of(stack, kind):
                return stack
    arrays = [on_host(column.name(k), x) for k, x in enumerate(found)]
    for k, x in enumerate(arrays):
        if x.shape != shape or not _is_of(x, kind):
            raise must(f"have {words} as {column.name(k)!r}", f"{x.dtype} of shape {x.shape}")
    result = np.empty((len(arrays), *shape), np.result_type(*arrays) if arrays else kind)
    for k, x in enumerate(arrays):
        result[k] = x
    return result


def _is_of(x: Any, kind: str) -> bool:
    return x.dtype.kind == kind and (kind == "i" or x.dtype.itemsize in (4, 8))


def integers(column: Column, kind: Any, low: int, high: int = FOREVER) -> Any:
    """Return the entries of a column, integers from low to high, as one vector of this dtype."""
    high = min(high, int(np.iinfo(kind).max))
    values = _together(column, (), "i", "one signed integer").astype(np.int64)
    bad = (values < low) | (values > high)
    if bad.any():
        k = int(np.argmax(bad))
        raise must(f"have a number from {low} to {high} as {column.name(k)!r}", int(values[k]))
    return values.astype(kind)


class Rule(NamedTuple):
    """A condition on numbers: in words, the function that selects the numbers, and the test."""

    words: str
    of: Callable[[Any], Any]
    holds: Callable[[Any], Any]


def reals(column: Column, shape: tuple[int, ...], dtype: str, *rules: Rule) -> Any:
    """Return the entries of a column, of this shape, as one stack in this dtype; check the rules."""
    stack = _together(column, shape, "f", f"float32 or float64 of shape {shape}")
    with np.errstate(over="ignore"):
        result = stack.astype(dtype, copy=False)
    for rule in rules:
        values = rule.of(result)
        good = rule.holds(values)
        if not good.all():
            at = int(np.argmin(good))
            raise must(
                f"have {rule.words} in {column.name(at * len(column.values) // good.size)!r}", str(values.flat[at])
            )
    return result


def diagonal(packed: Any) -> Any:
    """Return the diagonals of packed symmetric matrices."""
    k = np.arange(order_of(packed.shape[-1]))
    return packed[..., k * (k + 3) // 2]


FINITE = Rule("numbers that are finite", np.asarray, np.isfinite)
NOT_NEGATIVE = Rule("no number below 0", np.asarray, lambda x: ~(x < 0))
NOT_NEGATIVE_OR_NAN = Rule("no NaN and no number below 0", np.asarray, lambda x: x >= 0)
OF_SQUARES = Rule("no number below 0 on the diagonal", diagonal, lambda x: ~(x < 0))
DECAY_OR_NAN = Rule("NaN or a number from 0 to 1", np.asarray, lambda x: np.isnan(x) | ((x >= 0) & (x <= 1)))
