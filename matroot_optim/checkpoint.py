"""The state in a file, and back: any framework, another block size, another engine, with or without the roots."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from matroot_optim.arrays import Array, cast, like, to_host
from matroot_optim.config import Options
from matroot_optim.engines import Failure
from matroot_optim.layout import Layout, Leaf, Stack
from matroot_optim.reblock import reblock
from matroot_optim.roots import FACTS, RootAnswer, RootJob
from matroot_optim.state import BOOKS, COUNTS, Pending, Settled, State, fresh, leaf_parts, settled
from matroot_optim.trees import join

FORMAT = 1
META = "__metadata__"
Names = dict[str, Any]


# To names and numpy arrays, and back.


def export(state: State, *, roots: bool = True) -> tuple[Names, dict[str, Any]]:
    """The state as numpy arrays by name, root jobs under way included, and what is needed to read it.

    Root jobs are waited for. Without `roots`, they and all that is known of roots are left out; on load the
    roots are computed at once.
    """
    arrays = {name: to_host(x) for name, x in state.arrays.items() if name != "graft_ratio"}
    names = {name: np.asarray(x) for name, x in State(state.layout, arrays).items() if roots or not state.of_root(name)}
    if roots:
        for pending in settled(state.pending):
            names.update(_export_pending(state.layout, pending))
    leaves = {leaf.path: _describe(leaf) for leaf in state.layout.leaves}
    return names, {"format": FORMAT, "leaves": leaves, "roots": roots}


def _describe(leaf: Leaf) -> dict[str, Any]:
    blocks = [[list(origin), list(size)] for origin, size in leaf.blocks]
    return {"shape": leaf.shape, "merged": leaf.merged, "axes": leaf.axes, "blocks": blocks}


def restore(options: Options, layout: Layout, params: Sequence[Array], names: Names, meta: Mapping[str, Any]) -> State:
    """The state that `export` gave, in the layout, framework and dtypes of `params`."""
    if meta.get("format") != FORMAT:
        raise ValueError(f"the checkpoint must be of format {FORMAT}, got {meta.get('format')!r}")
    _check_leaves(layout, meta["leaves"])
    state = fresh(options, layout, params)
    step = int(names["step"])
    arrays = {**state.arrays, "step": np.asarray(step, np.int64)}
    for i, leaf in enumerate(layout.leaves):
        for part in COUNTS:
            arrays[part][i] = names[leaf.name(part)]
        for part in leaf_parts(leaf):
            if leaf.name(part) in names:
                arrays[leaf.name(part)] = _put(names[leaf.name(part)], params[i], leaf.dtype)
    same = {leaf.path: _describe(leaf)["blocks"] == meta["leaves"][leaf.path]["blocks"] for leaf in layout.leaves}
    recut: Names = {}
    for leaf in layout.leaves:
        if not same[leaf.path]:
            recut.update(_recut(leaf, names, meta["leaves"][leaf.path]["blocks"]))
    for stack, axis in layout.factors:
        kept = [
            same[layout.leaves[m.leaf].path] and meta["roots"] for m in stack.members for _ in range(m.start, m.stop)
        ]
        _restore_factor(layout, stack, axis, arrays, {**names, **recut}, np.asarray(kept), params, step)
    whole = all(same.values()) and meta["roots"]
    return State(layout, arrays, _restore_pending(layout, params, names) if whole else ())


def _check_leaves(layout: Layout, saved: Mapping[str, Any]) -> None:
    missing, extra = sorted(set(layout.index) - set(saved)), sorted(set(saved) - set(layout.index))
    if missing or extra:
        raise ValueError(
            f"the checkpoint must have the parameters of params; it lacks {missing} and has beside {extra}"
        )
    for leaf in layout.leaves:
        for what in ("shape", "merged", "axes"):
            have, want = tuple(saved[leaf.path][what]), getattr(leaf, what)
            if have != want:
                raise ValueError(f"the checkpoint must have {what} {want} for {leaf.path!r}, got {have}")


def _recut(leaf: Leaf, names: Names, blocks: Sequence[Any]) -> Names:
    old = [(tuple(origin), tuple(size)) for origin, size in blocks]

    def name(block: int, axis: int) -> str:
        return leaf.name(f"block{block}/axis{axis}/statistic")

    statistics = {(k, axis): names[name(k, axis)] for k in range(len(old)) for axis in leaf.axes}
    return {name(*key): value for key, value in reblock(old, statistics, leaf.blocks, leaf.axes).items()}


def _restore_factor(
    layout: Layout,
    stack: Stack,
    axis: int,
    arrays: dict[str, Array],
    names: Names,
    kept: Any,
    params: Sequence[Array],
    step: int,
) -> None:
    """The arrays of one dimension of a stack; roots that do not fit are asked for at once."""
    key, x = stack.axis_name(axis), params[stack.members[0].leaf]
    prefixes = [join(block, f"axis{axis}") for block in layout.block_names(stack)]
    arrays[f"{key}/statistic"] = _put(np.stack([names[f"{p}/statistic"] for p in prefixes]), x, stack.dtype)
    arrays[f"{key}/mark"] += step  # phases go on from here, where no better is known
    arrays[f"{key}/taken"][:] = -1
    at = np.flatnonzero(kept)
    if not at.size:
        return
    for part in (*FACTS, *BOOKS):
        arrays[f"{key}/{part}"][at] = [names[f"{prefixes[b]}/{part}"] for b in at]
    root = np.array(to_host(arrays[f"{key}/root"]))
    root[at] = np.stack([names[f"{prefixes[b]}/root"] for b in at])
    arrays[f"{key}/root"] = _put(root, x, stack.dtype)


def _put(values: Any, x: Array, dtype: str) -> Array:
    """A copy of saved values beside x."""
    return like(np.array(values, dtype=dtype), x)


# Root jobs under way.


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


def _restore_pending(layout: Layout, params: Sequence[Array], names: Names) -> tuple[Pending, ...]:
    saved: dict[str, list[str]] = {}
    for name in names:
        block_axis, mark, rest = name.rpartition("/pending")
        if mark and rest.endswith("/due"):
            saved.setdefault(block_axis, []).append(name.removesuffix("/due"))
    batches = []
    for stack, axis in layout.factors:
        found: dict[tuple[int, int, bool], list[tuple[int, str]]] = {}
        for b, block in enumerate(layout.block_names(stack)):
            for prefix in saved.get(join(block, f"axis{axis}"), []):
                submitted = int(prefix.rpartition("/pending")[2])
                there = f"{prefix}/root" in names
                found.setdefault((submitted, int(names[f"{prefix}/due"]), there), []).append((b, prefix))
        for (submitted, due, there), rows in found.items():
            index = np.array([b for b, _ in rows])
            job = RootJob(stack.axis_name(axis), index, None, stack.exponent, stack.options.ridge, due)
            answer = _restore_answer(stack, [p for _, p in rows], names) if there else Failure("lost before the save")
            batches.append(Pending(submitted, (job,), Settled(answer)))
    return tuple(sorted(batches, key=lambda p: p.submitted))


def _restore_answer(stack: Stack, prefixes: Sequence[str], names: Names) -> RootAnswer:
    root = np.stack([names[f"{p}/root"] for p in prefixes])
    facts = {fact: np.array([names[f"{p}/{fact}"] for p in prefixes], kind) for fact, kind in FACTS.items()}
    return RootAnswer(cast(root, stack.dtype), facts, 0.0)


# To a file, and back.


def write(path: str | os.PathLike[str], names: Names, meta: Mapping[str, Any]) -> None:
    """Write names and metadata so that `path` holds the old file or the new one, whatever happens meanwhile."""
    target = Path(path)
    kind = _kind(target)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        with open(temporary, "xb") as file:
            _write_to(file, kind, names, json.dumps(meta))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_directory(target.parent)


def _kind(target: Path) -> str:
    if target.suffix in (".npz", ".safetensors"):
        return target.suffix
    try:
        import safetensors  # noqa: F401
    except ImportError:
        return ".npz"
    return ".safetensors"


def _write_to(file: Any, kind: str, names: Names, meta: str) -> None:
    if kind == ".npz":
        np.savez(file, **{**names, META: np.frombuffer(meta.encode(), np.uint8)})
        return
    from safetensors.numpy import save

    arrays = {name: np.array(x, order="C") for name, x in names.items()}
    file.write(save(arrays, metadata={META: meta}))


def _sync_directory(directory: Path) -> None:
    if os.name == "posix":
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read(path: str | os.PathLike[str]) -> tuple[Names, dict[str, Any]]:
    """Names and metadata of a file, whichever of the two kinds it is.

    Raises
    ------
    ValueError
        The file is no checkpoint of this optimizer.
    """
    with open(path, "rb") as file:
        start = file.read(2)
    if start == b"PK":
        with np.load(path, allow_pickle=False) as data:
            names = dict(data)
        text = bytes(names.pop(META, np.zeros(0, np.uint8))).decode()
    else:
        names, text = _read_safetensors(path)
    if not text:
        raise ValueError(f"{os.fspath(path)} must be a checkpoint written by save, got a file without its metadata")
    return names, json.loads(text)


def _read_safetensors(path: str | os.PathLike[str]) -> tuple[Names, str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(os.fspath(path), framework="np") as file:
            names = {name: file.get_tensor(name) for name in file.keys()}
            return names, (file.metadata() or {}).get(META, "")
    except SafetensorError as wrong:
        raise ValueError(f"{os.fspath(path)} must be a checkpoint written by save, got {wrong}") from wrong
