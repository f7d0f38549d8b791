"""The metadata and the names of a checkpoint, and the checks of both and of every entry.

A checkpoint comes from a file, or from a dict that a user may have edited. So every value is checked, and a wrong
value raises a ValueError that names its entry.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np

from matroot_optim.arrays import is_torch, stacked, to_host
from matroot_optim.checkpoint.reblock import Block
from matroot_optim.entries import BOOKS, COUNTS, UNITS
from matroot_optim.layout.blocking import regions
from matroot_optim.layout.layout import Layout
from matroot_optim.layout.parts import Leaf
from matroot_optim.layout.trees import join
from matroot_optim.refresh.jobs import FACTS
from matroot_optim.step.statistics import order_of

#: Format 1 had no checksums in files, no units of gradients, no list of a parameter's parts, and no number of root
#: jobs.
FORMAT = 2
PARTS = ("momentum", "moment", "average", "weights")
#: Larger than every step; differences of two steps fit in int64.
FOREVER = 2**62

#: The entries of a checkpoint by name, and those of its parameters by path and by name without the path.
Names = dict[str, Any]
Entries = dict[str, dict[str, Any]]
#: A path, and a prefix of names without the path.
Key = tuple[str, str]
_OF_BLOCK = re.compile(r"(?:(.+)/)?(block\d+/axis\d+/.+)", re.DOTALL)
_PENDING = re.compile(r"(.+)/(pending[1-9][0-9]{0,17})/([a-z_]+)", re.DOTALL)


def _must(what: str, got: Any) -> ValueError:
    text = got if isinstance(got, str) else repr(got)
    return ValueError(f"the checkpoint must {what}, got {text if len(text) < 200 else text[:200] + '...'}")


# Metadata.


@dataclass(frozen=True)
class SavedLeaf:
    """The metadata of one parameter: its blocks, and the names of its arrays of that shape."""

    blocks: list[Block]
    parts: Sequence[str] | None  # None: format 1


@dataclass(frozen=True)
class Saved:
    """The metadata: the parameters by path, a flag for saved roots, and the number of pending jobs."""

    leaves: dict[str, SavedLeaf]
    roots: bool
    jobs: int | None  # None: format 1


def check_format(meta: Any) -> None:
    """Raise if the metadata have a format that this version does not know."""
    if not isinstance(meta, Mapping):
        raise _must("have metadata", meta)
    version = meta.get("format")
    if type(version) is not int or version < 1:
        raise _must(f"be of format 1 to {FORMAT}", version)
    if version > FORMAT:
        raise _must(f"be of format 1 to {FORMAT}", f"format {version} of a newer matroot_optim, which can read it")


def read_meta(layout: Layout, meta: Any) -> Saved:
    """Check and return the metadata of a checkpoint of this layout's parameters."""
    check_format(meta)
    wanted = {"format", "leaves", "roots"} | ({"jobs"} if meta["format"] > 1 else set())
    if set(meta) != wanted:
        raise _must(f"have {', '.join(sorted(wanted))} in its metadata", sorted(map(str, meta)))
    leaves, roots, jobs = meta["leaves"], meta["roots"], meta.get("jobs")
    if not isinstance(roots, bool):
        raise _must("have True or False as 'roots' in its metadata", roots)
    if type(jobs) is not int and meta["format"] > 1:
        raise _must("have a number as 'jobs' in its metadata", jobs)
    if not isinstance(leaves, Mapping):
        raise _must("have a dict of parameters as 'leaves' in its metadata", leaves)
    missing, extra = layout.index.keys() - leaves.keys(), leaves.keys() - layout.index.keys()
    if missing or extra:
        raise ValueError(
            f"the checkpoint must have the parameters of params; it lacks {sorted(missing)} and has beside "
            f"{sorted(extra, key=str)}"
        )
    alike: dict[Any, SavedLeaf] = {}  # leaves and metadata that many parameters share are read once
    known: dict[str, SavedLeaf] = {}
    for leaf in layout.leaves:
        saved = leaves[leaf.path]
        key = (id(saved), id(leaf.regions), id(leaf.options), leaf.shape, leaf.axes)
        if key not in alike:
            alike[key] = _read_leaf(leaf, saved, meta["format"])
        known[leaf.path] = alike[key]
    return Saved(known, roots, jobs)


def _read_leaf(leaf: Leaf, saved: Any, version: int) -> SavedLeaf:
    wanted = {"shape", "merged", "axes", "blocks"} | ({"parts"} if version > 1 else set())
    if isinstance(saved, Mapping) and saved.get("bases", False) is not leaf.in_basis:
        kinds = ("roots, of Shampoo,", "eigenbases, of SOAP,")
        raise ValueError(f"the checkpoint must have {kinds[leaf.in_basis]} for {leaf.path!r}, got the other")
    wanted |= {"bases"} if leaf.in_basis else set()
    if not isinstance(saved, Mapping) or set(saved) != wanted:
        raise _must(f"have {', '.join(sorted(wanted))} for {leaf.path!r}", saved)
    for what in ("shape", "merged", "axes"):
        want, have = getattr(leaf, what), saved[what]
        have = tuple(have) if isinstance(have, list | tuple) else have
        if not isinstance(have, tuple) or any(type(n) is not int for n in have) or have != want:
            raise _must(f"have {what} {want} for {leaf.path!r}", have)
    parts = saved.get("parts")
    if version > 1 and not (isinstance(parts, list) and parts == [part for part in PARTS if part in parts]):
        raise _must(f"have a list of {' and '.join(PARTS)} as parts for {leaf.path!r}", parts)
    return SavedLeaf(_read_blocks(leaf, saved["blocks"]), parts)


def _read_blocks(leaf: Leaf, saved: Any) -> list[Block]:
    """Return the blocks of the saved cutting, which the size of the first block determines."""
    blocks: list[Block] = []
    try:
        if leaf.regions:
            size = tuple(saved[0][1])
            # Compare the count first: a wrong size could give more blocks than fit in memory.
            if all(type(n) is int for n in size) and len(saved) == math.prod(map(_pieces, leaf.merged, size)):
                parts = regions(leaf.merged, size)
                blocks = sorted((origin, part.size) for part in parts for origin in part.origins())
        given = [(tuple(origin), tuple(n)) for origin, n in saved]
        good = given in (blocks, leaf.blocks)
        if not good and leaf.options.split is not None:
            good = _covers_once(leaf.merged, given)
        blocks = given
    except (TypeError, ValueError, LookupError, ArithmeticError, RuntimeError):
        good = False
    if not good:
        raise _must(f"have the blocks of a cutting for {leaf.path!r}", saved)
    return blocks


def _covers_once(shape: tuple[int, ...], blocks: Sequence[Block]) -> bool:
    """Return True if sorted blocks cover every entry of a tensor once."""
    times = np.zeros(shape, np.int8)
    for origin, size in blocks:
        if any(type(n) is not int or n < 0 for n in (*origin, *size)) or len(origin) != len(size) != len(shape):
            return False
        times[tuple(slice(a, a + n) for a, n in zip(origin, size, strict=True))] += 1
        if any(a + n > whole for a, n, whole in zip(origin, size, shape, strict=True)):
            return False
    return sorted(blocks) == list(blocks) and bool((times == 1).all())


def _pieces(n: int, size: int) -> int:
    return -(-n // size)


# Names.


def by_parameter(layout: Layout, names: Mapping[str, Any]) -> Entries:
    """Return the entries but for "step" by path and by name without the path; a strange name is a path itself."""
    found: Entries = {leaf.path: {} for leaf in layout.leaves}
    for name, x in names.items():
        path, slash, part = name.rpartition("/")
        if path not in found or (slash and not path) or not part:
            inside = _OF_BLOCK.fullmatch(name)
            path, part = (inside[1] or "", inside[2]) if inside else (name, "")
        if name != "step":
            found.setdefault(path, {})[part] = x
    return found


def check_names(layout: Layout, saved: Saved, entries: Entries) -> None:
    """Raise if entries are missing, or do not belong to a checkpoint with these metadata."""
    of_root = ("statistic", "root", *FACTS, *BOOKS) if saved.roots else ("statistic",)
    alike: dict[Any, tuple[set[str], set[str]]] = {}  # prefixes of roots, and names
    missing, extra, count = list[str](), list[str](), 0
    for leaf in layout.leaves:
        cut, given = saved.leaves[leaf.path], entries.get(leaf.path, {}).keys()
        key = (id(cut), leaf.axes)
        if key not in alike:
            roots = {f"block{k}/axis{axis}" for k in range(len(cut.blocks)) for axis in leaf.axes}
            parts = [] if cut.parts is None else [*cut.parts, *UNITS]
            alike[key] = roots, {*COUNTS, *parts, *(f"{root}/{part}" for root in roots for part in of_root)}
        roots, wanted = alike[key]
        if given == wanted:
            continue
        if cut.parts is None:
            wanted = wanted | (given & set(PARTS[:2]))
        jobs = _jobs(given - wanted, roots) if saved.roots else {}
        wanted = wanted.union(*jobs.values())
        count += len(jobs)
        missing += map(leaf.name, wanted - given)
        extra += [join(leaf.path, part) for part in given - wanted]
    extra += [join(path, part) for path in entries.keys() - layout.index.keys() for part in entries[path]]
    for name in sorted(missing):
        raise ValueError(f"the checkpoint must have the entry {name!r}")
    for name in sorted(extra):
        raise ValueError(f"the checkpoint must have no entry but those of its parameters, got {name!r}")
    if saved.jobs not in (None, count):
        raise _must(f"have {saved.jobs} root jobs under way", count)


def _jobs(names: Collection[str], roots: Collection[str]) -> dict[str, set[str]]:
    """Return the names that every pending job among these names must have."""
    jobs: dict[str, set[str]] = {}
    for name in names:
        found = _PENDING.fullmatch(name)
        if found and found[1] in roots and found[3] in ("due", "root", *FACTS):
            jobs.setdefault(join(found[1], found[2]), set()).add(found[3])
    return {
        job: {f"{job}/{part}" for part in ("due", *(("root", *FACTS) if there != {"due"} else ()))}
        for job, there in jobs.items()
    }


# Entries.


def on_host(name: str, x: Any) -> Any:
    """Return an entry as numpy."""
    try:
        if isinstance(x, np.ndarray | np.generic):
            return np.asarray(x)
        if is_torch(x):
            return to_host(x)
    except (TypeError, RuntimeError, ValueError):  # sparse, without data, or a dtype that numpy lacks
        pass
    raise _must(f"have an array of numbers as {name!r}", f"{type(x).__name__} {getattr(x, 'dtype', '')}".strip())


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
            raise _must(f"have {words} as {column.name(k)!r}", f"{x.dtype} of shape {x.shape}")
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
        raise _must(f"have a number from {low} to {high} as {column.name(k)!r}", int(values[k]))
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
            raise _must(
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
