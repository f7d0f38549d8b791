"""Conversion of the state to names and numpy arrays and back, for any framework, block size and engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from matroot import Status
from matroot_optim.arrays import Array, like, likes, to_host
from matroot_optim.checkpoint.columns import (
    DECAY_OR_NAN,
    FINITE,
    FOREVER,
    NOT_NEGATIVE,
    NOT_NEGATIVE_OR_NAN,
    OF_SQUARES,
    Column,
    Entries,
    Key,
    Names,
    Rule,
    columns,
    integers,
    reals,
)
from matroot_optim.checkpoint.kinds import of_kinds
from matroot_optim.checkpoint.metadata import FORMAT, Saved, by_parameter, check_names, read_meta, since_format_1
from matroot_optim.checkpoint.reblock import Block, reblock
from matroot_optim.entries import (
    BOOKS,
    COUNTS,
    OF_ROOT,
    UNITS,
    Pending,
    Settled,
    answer_size,
    fresh_arrays,
    fresh_marks,
    settled,
)
from matroot_optim.layout.layout import Layout
from matroot_optim.layout.parts import Leaf, Stack
from matroot_optim.layout.trees import join
from matroot_optim.options import Options
from matroot_optim.refresh.engines import Failure
from matroot_optim.refresh.jobs import FACTS, RootAnswer, RootJob
from matroot_optim.step.betas import BETAS, OF_LAYOUT, betas_of, in_new_betas
from matroot_optim.step.narrow import narrow, widen
from matroot_optim.step.precondition import along
from matroot_optim.step.scaling import LARGEST
from matroot_optim.step.statistics import packed_size

if TYPE_CHECKING:
    from matroot_optim.state import State

#: Up to this number of elements, arrays of several parameters are checked in one stack.
SMALL = 2**16

# To names and numpy arrays, and back.


def export(state: State, *, roots: bool = True) -> tuple[Names, dict[str, Any]]:
    """Return the state as numpy arrays by name, with the pending root jobs, and the metadata to read it.

    Waits for the root jobs. Without `roots`, the jobs, the roots and their facts are left out, and a load requests
    all roots at once.
    """
    if not roots and any(leaf.in_basis for leaf in state.layout.leaves):
        raise ValueError("roots must be True under SOAP, whose second moments are in the eigenbases, got False")
    arrays = {name: to_host(x) for name, x in widen(state.layout, state.arrays).items() if name != "graft_ratio"}
    names = {
        name: np.asarray(x) for name, x in replace(state, arrays=arrays).items() if roots or not state.of_root(name)
    }
    if roots:
        for pending in settled(state.pending):
            names.update(_export_pending(state.layout, pending))
    leaves = {leaf.path: describe(leaf) for leaf in state.layout.leaves}
    jobs = sum(name.endswith("/due") for name in names)
    return names, {"format": FORMAT, "leaves": leaves, "roots": roots, "jobs": jobs}


def describe(leaf: Leaf) -> dict[str, Any]:
    """Return the metadata of a parameter: its shape, its cut, and the names and kinds of its arrays of that shape."""
    blocks = [[list(origin), list(size)] for origin, size in leaf.blocks]
    cut = {"shape": leaf.shape, "merged": leaf.merged, "axes": leaf.axes, "blocks": blocks}
    known = {**cut, "parts": leaf.parts, "kinds": leaf.kinds}
    return {**known, "bases": True} if leaf.in_basis else known


def restore(
    options: Options, layout: Layout, params: Sequence[Array], names: Names, meta: Mapping[str, Any]
) -> tuple[dict[str, Array], tuple[Pending, ...]]:
    """Convert the output of `export` to arrays and root jobs in the layout, framework and dtypes of `params`.

    ValueError, which names the entry, if an entry or the metadata are missing, not of this layout, or not valid values
    of a state. Numbers that are not finite are accepted only under ``on_nonfinite="propagate"``.
    """
    return restore_entries(options, layout, params, names.get("step"), by_parameter(layout, names), meta)


def restore_entries(
    options: Options, layout: Layout, params: Sequence[Array], step: Any, entries: Entries, meta: Mapping[str, Any]
) -> tuple[dict[str, Array], tuple[Pending, ...]]:
    """Do the same as `restore` with the step and the entries of every parameter, by path and name without the path."""
    saved = read_meta(layout, meta)
    check_names(layout, saved, entries)
    if step is None:
        raise ValueError("the checkpoint must have the entry 'step'")
    finite = (FINITE,) if options.on_nonfinite != "propagate" else ()
    step = int(integers(Column([step], [("", "")], "step"), np.int64, 0)[0])
    entries, afresh = of_kinds(layout, saved, entries)
    parts = _restore_parts(layout, params, entries, finite)
    arrays = {**fresh_arrays(options, layout, params, parts), "step": np.asarray(step, np.int64)}
    arrays.update(fresh_marks(layout, options.interval(step + 1), options.schedule))
    later = since_format_1(saved.version)
    of_leaves = columns(entries, [(leaf.path, "") for leaf in layout.leaves], (*COUNTS, *later))
    arrays.update({part: integers(of_leaves[part], kind, 0, step) for part, kind in COUNTS.items()})
    arrays["count"][afresh] = 0
    if "peak" in later:
        arrays["peak"] = reals(of_leaves["peak"], (), "float64", FINITE, NOT_NEGATIVE)
        arrays["exponent"] = integers(of_leaves["exponent"], UNITS["exponent"], -LARGEST, LARGEST)
    arrays.update({part: reals(of_leaves[part], (), "float64", DECAY_OR_NAN) for part in BETAS if part in later})
    same = {leaf.path: saved.roots and saved.leaves[leaf.path].blocks == leaf.blocks for leaf in layout.leaves}
    recut: Entries = {}
    for leaf in layout.leaves:
        if saved.leaves[leaf.path].blocks != leaf.blocks:
            mine = _recut(leaf, entries, saved.leaves[leaf.path].blocks, finite)
            recut[leaf.path] = {**entries[leaf.path], **mine}
    entries = {**entries, **recut}
    arrays.update(_out_of_old_bases(layout, saved, entries, arrays, params))
    for stack, axis in layout.factors:
        kept = [same[layout.leaves[m.leaf].path] for m in stack.members for _ in range(m.start, m.stop)]
        x = params[stack.members[0].leaf]
        _restore_factor(layout, stack, axis, arrays, entries, np.asarray(kept), x, step, finite)
    betas = betas_of(layout)
    arrays.update(in_new_betas(layout, arrays, {name: betas[name] for name in OF_LAYOUT}))
    there = saved.jobs != 0 and all(same.values())
    return narrow(layout, arrays), _restore_pending(layout, entries, step) if there else ()


def _restore_parts(
    layout: Layout, params: Sequence[Array], entries: Entries, finite: Sequence[Rule]
) -> dict[str, Array]:
    """Return the arrays of the shape of a parameter; small ones of one shape are checked together."""
    alike: dict[Any, list[tuple[Leaf, Array]]] = {}
    for leaf, x in zip(layout.leaves, params, strict=True):
        given = entries[leaf.path]
        for part in leaf.parts:
            if part in given:
                alone = leaf.path if leaf.size > SMALL else ""
                alike.setdefault((part, leaf.shape, leaf.dtype, leaf.place, alone), []).append((leaf, x))
    found: dict[str, Array] = {}
    for (part, shape, dtype, *_), mine in alike.items():
        column = columns(entries, [(leaf.path, "") for leaf, _ in mine], [part])[part]
        if part == "weights":
            values = reals(column, (2,), "float64", FINITE, NOT_NEGATIVE)
        else:
            values = reals(column, shape, dtype, *((*finite, NOT_NEGATIVE) if part == "moment" else finite))
        own = map(np.array if len(mine) > 1 else np.asarray, values)  # no view, which would keep all in memory
        there = own if part == "weights" else likes(own, mine[0][1])
        found.update(zip([leaf.name(part) for leaf, _ in mine], there, strict=True))
    return found


def _recut(leaf: Leaf, entries: Entries, blocks: Sequence[Block], finite: Sequence[Rule]) -> Names:
    """Return the statistics of the leaf's blocks by name without the path."""

    statistics = {}
    for k, (_, size) in enumerate(blocks):
        for axis in leaf.axes:
            found = columns(entries, [(leaf.path, f"block{k}/axis{axis}")], ["statistic"])
            statistics[k, axis] = _statistics(found, size[axis], "float64", *finite)[0]
    new = reblock(blocks, statistics, leaf.blocks, leaf.axes)
    return {f"block{k}/axis{axis}/statistic": value for (k, axis), value in new.items()}


def _out_of_old_bases(
    layout: Layout, saved: Saved, entries: Entries, arrays: dict[str, Array], params: Sequence[Array]
) -> dict[str, Array]:
    """Return the second moments of re-cut parameters in the original space, where SOAP's new bases begin."""
    found = {}
    for leaf, x in zip(layout.leaves, params, strict=True):
        blocks = saved.leaves[leaf.path].blocks
        if not leaf.in_basis or blocks == leaf.blocks:
            continue
        moment = np.array(to_host(arrays[leaf.name("moment")]))
        whole = moment.reshape(leaf.merged)
        for k, (origin, size) in enumerate(blocks):
            box = tuple(slice(a, a + n) for a, n in zip(origin, size, strict=True))
            for axis in leaf.axes:
                root = columns(entries, [(leaf.path, f"block{k}/axis{axis}")], ["root"])["root"]
                Q = reals(root, (size[axis],) * 2, leaf.dtype, FINITE)
                whole[box] = along(whole[box][None], Q * Q, axis, np)[0]
        found[leaf.name("moment")] = like(moment, x)
    return found


def _statistics(found: Mapping[str, Column], n: int, dtype: str, *rules: Rule) -> Any:
    return reals(found["statistic"], (packed_size(n),), dtype, *rules, OF_SQUARES)


def _restore_factor(
    layout: Layout,
    stack: Stack,
    axis: int,
    arrays: dict[str, Array],
    entries: Entries,
    kept: Any,
    x: Array,
    step: int,
    finite: Sequence[Rule],
) -> None:
    """Restore the arrays of one dimension of a stack on the device of x; request roots that do not fit."""
    key, n = stack.axis_name(axis), stack.shape[axis]
    roots = [(layout.leaves[i].path, f"block{k}/axis{axis}") for i, k in layout.blocks_of(stack)]
    statistics = _statistics(columns(entries, roots, ["statistic"]), n, stack.dtype, *finite)
    arrays[f"{key}/statistic"] = like(statistics, x)
    arrays[f"{key}/mark"] += step  # for roots whose mark is not restored, phases start at this step
    arrays[f"{key}/taken"][:] = -1
    at = np.flatnonzero(kept)
    if not at.size:
        return
    found = columns(entries, [roots[b] for b in at.tolist()], OF_ROOT)
    for part, values in {**_facts(found), **_books(found, step)}.items():
        arrays[f"{key}/{part}"][at] = values
    root = np.array(to_host(arrays[f"{key}/root"]))
    root[at] = reals(found["root"], (n, n), stack.dtype, FINITE)
    arrays[f"{key}/root"] = like(root, x)


def _facts(found: Mapping[str, Column], *, of_answer: bool = False) -> Names:
    """Return the facts of roots; those of an answer that is not installed yet may be NaN."""
    facts = {}
    for fact, kind in FACTS.items():
        if np.dtype(kind).kind == "i":
            facts[fact] = integers(found[fact], kind, 0, max(Status) if fact == "status" else FOREVER)
        else:
            rules = () if of_answer else (NOT_NEGATIVE_OR_NAN,)
            facts[fact] = reals(found[fact], (), np.dtype(kind).name, *rules)
    return facts


def _books(found: Mapping[str, Column], step: int) -> Names:
    low, high = {"mark": -FOREVER, "taken": -1}, {"taken": step}
    return {  # under optax, the counters may already include the roots of the next step
        book: integers(found[book], kind, low.get(book, 0), high.get(book, step + 1)) for book, kind in BOOKS.items()
    }


# Pending root jobs.


def _export_pending(layout: Layout, pending: Pending) -> Names:
    answer, names, start = pending.answer(), {}, 0
    stacks = {stack.axis_name(axis): (stack, axis) for stack, axis in layout.factors}
    for job in pending.jobs:
        stack, axis = stacks[job.key]
        blocks = list(layout.block_names(stack))
        for j, b in enumerate(job.index, start):
            prefix = join(blocks[b], f"axis{axis}", f"pending{pending.submitted}")
            names[f"{prefix}/due"] = np.asarray(job.due)
            if isinstance(answer, RootAnswer):
                names[f"{prefix}/root"] = np.asarray(to_host(answer.root[j]))
                names.update({f"{prefix}/{fact}": np.asarray(values[j]) for fact, values in answer.facts.items()})
        start += len(job.index)
    return names


def _restore_pending(layout: Layout, entries: Entries, step: int) -> tuple[Pending, ...]:
    saved: dict[Key, list[Key]] = {}  # by path and root
    for path, mine in entries.items():
        for name in mine:
            root, mark, rest = name.rpartition("/pending")
            if mark and rest.endswith("/due"):
                saved.setdefault((path, root), []).append((path, name.removesuffix("/due")))
    batches = []
    for stack, axis in layout.factors:
        found: dict[tuple[int, int, bool], list[tuple[int, Key]]] = {}
        for b, (i, k) in enumerate(layout.blocks_of(stack)):
            for path, job in saved.get((layout.leaves[i].path, f"block{k}/axis{axis}"), []):
                submitted = int(job.rpartition("/pending")[2])
                if submitted > step:
                    text = f"the checkpoint must have no job from after step {step}, got {join(path, job)!r}"
                    raise ValueError(text)
                due = int(integers(columns(entries, [(path, job)], ["due"])["due"], np.int64, step + 1)[0])
                there = f"{job}/root" in entries[path]
                found.setdefault((submitted, due, there), []).append((b, (path, job)))
        for (submitted, due, there), rows in found.items():
            index = np.array([b for b, _ in rows])
            root_job = RootJob(stack.axis_name(axis), index, None, stack.exponent(axis), stack.options.rule, due)
            lost = Failure("lost before the save")
            answer = _restore_answer(stack, axis, [key for _, key in rows], entries) if there else lost
            batches.append(Pending(submitted, (root_job,), Settled(answer)))
    return tuple(sorted(batches, key=lambda p: p.submitted))


def _restore_answer(stack: Stack, axis: int, jobs: Sequence[Key], entries: Entries) -> RootAnswer:
    found = columns(entries, jobs, ("root", *FACTS))
    root = reals(found["root"], (answer_size(stack, axis),), stack.dtype)
    return RootAnswer(root, _facts(found, of_answer=True), 0.0)
