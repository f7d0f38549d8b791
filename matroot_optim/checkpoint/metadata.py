"""The metadata and the names of a checkpoint, and the checks of both."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from matroot_optim.checkpoint.columns import Entries, must
from matroot_optim.checkpoint.reblock import Block
from matroot_optim.entries import BOOKS, COUNTS, UNITS
from matroot_optim.layout.blocking import regions
from matroot_optim.layout.layout import Layout
from matroot_optim.layout.parts import Leaf
from matroot_optim.layout.trees import join
from matroot_optim.refresh.jobs import FACTS
from matroot_optim.step.betas import BETAS

#: Format 2 had no decays; format 1 had no checksums in files either, no units of gradients, no list of a parameter's
#: parts, and no number of root jobs.
FORMAT = 3
PARTS = ("momentum", "moment", "average", "weights")

_OF_BLOCK = re.compile(r"(?:(.+)/)?(block\d+/axis\d+/.+)", re.DOTALL)
_PENDING = re.compile(r"(.+)/(pending[1-9][0-9]{0,17})/([a-z_]+)", re.DOTALL)


# Metadata.


@dataclass(frozen=True)
class SavedLeaf:
    """The metadata of one parameter: its blocks, and the names and the kinds of its arrays of that shape."""

    blocks: list[Block]
    parts: Sequence[str] | None  # None: format 1
    kinds: Mapping[str, str]  # of those that are known


@dataclass(frozen=True)
class Saved:
    """The metadata: the parameters by path, a flag for saved roots, the number of pending jobs, and the format."""

    leaves: dict[str, SavedLeaf]
    roots: bool
    jobs: int | None  # None: format 1
    version: int


def since_format_1(version: int) -> list[str]:
    """Return the entries of a parameter's numbers that a format has and the first had not."""
    return [*(UNITS if version > 1 else ()), *(BETAS if version > 2 else ())]


def check_format(meta: Any) -> None:
    """Raise if the metadata have a format that this version does not know."""
    if not isinstance(meta, Mapping):
        raise must("have metadata", meta)
    version = meta.get("format")
    if type(version) is not int or version < 1:
        raise must(f"be of format 1 to {FORMAT}", version)
    if version > FORMAT:
        raise must(f"be of format 1 to {FORMAT}", f"format {version} of a newer matroot_optim, which can read it")


def read_meta(layout: Layout, meta: Any) -> Saved:
    """Check and return the metadata of a checkpoint of this layout's parameters."""
    check_format(meta)
    wanted = {"format", "leaves", "roots"} | ({"jobs"} if meta["format"] > 1 else set())
    if set(meta) != wanted:
        raise must(f"have {', '.join(sorted(wanted))} in its metadata", sorted(map(str, meta)))
    leaves, roots, jobs = meta["leaves"], meta["roots"], meta.get("jobs")
    if not isinstance(roots, bool):
        raise must("have True or False as 'roots' in its metadata", roots)
    if type(jobs) is not int and meta["format"] > 1:
        raise must("have a number as 'jobs' in its metadata", jobs)
    if not isinstance(leaves, Mapping):
        raise must("have a dict of parameters as 'leaves' in its metadata", leaves)
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
    return Saved(known, roots, jobs, meta["format"])


def _read_leaf(leaf: Leaf, saved: Any, version: int) -> SavedLeaf:
    wanted = {"shape", "merged", "axes", "blocks"} | ({"parts"} if version > 1 else set())
    if isinstance(saved, Mapping) and saved.get("bases", False) is not leaf.in_basis:
        kinds = ("roots, of Shampoo,", "eigenbases, of SOAP,")
        raise ValueError(f"the checkpoint must have {kinds[leaf.in_basis]} for {leaf.path!r}, got the other")
    wanted |= {"bases"} if leaf.in_basis else set()
    wanted |= {"kinds"}.intersection(saved) if isinstance(saved, Mapping) else set()
    if not isinstance(saved, Mapping) or set(saved) != wanted:
        raise must(f"have {', '.join(sorted(wanted))} for {leaf.path!r}", saved)
    for what in ("shape", "merged", "axes"):
        want, have = getattr(leaf, what), saved[what]
        have = tuple(have) if isinstance(have, list | tuple) else have
        if not isinstance(have, tuple) or any(type(n) is not int for n in have) or have != want:
            raise must(f"have {what} {want} for {leaf.path!r}", have)
    parts = saved.get("parts")
    if version > 1 and not (isinstance(parts, list) and parts == [part for part in PARTS if part in parts]):
        raise must(f"have a list of {' and '.join(PARTS)} as parts for {leaf.path!r}", parts)
    return SavedLeaf(_read_blocks(leaf, saved["blocks"]), parts, read_kinds(leaf.path, saved))


def read_kinds(path: str, saved: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the kinds of the arrays of a parameter, those that its metadata have."""
    kinds = saved.get("kinds", {})
    if not isinstance(kinds, Mapping) or not all(type(text) is str for pair in kinds.items() for text in pair):
        raise must(f"have a dict of words as kinds for {path!r}", kinds)
    return kinds


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
        raise must(f"have the blocks of a cutting for {leaf.path!r}", saved)
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
            parts = [*(cut.parts or ()), *since_format_1(saved.version)]
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
        raise must(f"have {saved.jobs} root jobs under way", count)


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
