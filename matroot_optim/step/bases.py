"""SOAP's stages: the first-order step in the eigenbases of the statistics, and the second moment at a new basis.

For a gradient G, its mean M and bases Q_L, Q_R, with the squares and the division entry by entry:

    V <- b2 V + (1 - b2) (Q_L^T G Q_R)^2        step = Q_L ((Q_L^T M Q_R) / sqrt(V)) Q_R^T

M stays in the original space. The bases of a step have not seen its gradient: in the basis of a single gradient, the
gradient itself is diagonal, and the quotient of all other entries is rounding.

Vyas et al., SOAP: Improving and Stabilizing Shampoo using Adam, arXiv 2409.11321.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from matroot_optim.arrays import Array, by_numpy, copy, is_jax, like, namespace, to_host
from matroot_optim.layout.blocking import assemble, stack, unstack
from matroot_optim.layout.layout import Layout
from matroot_optim.layout.parts import Leaf, Stack
from matroot_optim.step.by_row import rotated_by_row
from matroot_optim.step.inputs import same
from matroot_optim.step.precondition import along, rotated

Arrays = Mapping[str, Array]


def moving(layout: Layout, active: Sequence[Any], accumulated: Any, lag: int) -> list[Any]:
    """Return a mask of the leaves that this step moves: under SOAP, those with a basis of an earlier gradient.

    Parameters
    ----------
    accumulated : int array
        Gradients in the statistics of every leaf, without that of this step.
    lag : int
        Steps that a basis takes.
    """
    if isinstance(accumulated, np.ndarray):
        known = (accumulated > lag).tolist()
        return [a and k if leaf.in_basis else a for leaf, a, k in zip(layout.leaves, active, known, strict=True)]
    found = []
    for leaf, a, count in zip(layout.leaves, active, accumulated, strict=True):
        found.append((count > lag) & a if leaf.in_basis and a is not False else a)
    return found


def turned(
    layout: Layout,
    arrays: Arrays,
    lists: Sequence[Sequence[Array]],
    live: Sequence[int],
    stacks: Sequence[Array] | None = None,
    *,
    back: bool,
) -> list[list[Array]]:
    """Return lists of arrays with those of SOAP's leaves in the bases, or `back` out of the bases.

    `stacks` are those of the first list.
    """
    wanted = {i for i in live if layout.leaves[i].in_basis}
    results = [list(leaves) for leaves in lists]
    boxes: list[dict[tuple[int, int], Array]] = [{} for _ in lists]
    for number, s in enumerate(layout.stacks):
        members = [m for m in s.members if m.leaf in wanted]
        if not members:
            continue
        here, there, xp = _workplace(s, lists[0][members[0].leaf])
        parts = [(m, layout.leaves[m.leaf], layout.leaves[m.leaf].regions[m.region]) for m in members]
        bases = [here(arrays[f"{s.axis_name(axis)}/root"]) for axis in s.axes]
        whole = len(members) == len(s.members)
        if not whole:
            bases = [xp.concat([Q[m.start : m.stop] for m in members], axis=0) for Q in bases]
        for k, leaves in enumerate(lists):
            if stacks is not None and whole and k == 0:
                G = here(stacks[number])
            else:
                cut = [stack(as_merged(here(leaves[m.leaf]), leaf), region, xp) for m, leaf, region in parts]
                G = cut[0] if len(cut) == 1 else xp.concat(cut, axis=0)
            turn = rotated_by_row if s.sharable else partial(rotated, xp=xp)
            G, start = turn(G, bases, s.axes, back=back), 0
            for m, leaf, region in parts:
                stop = start + m.stop - m.start
                box = unstack(G[start:stop] if len(parts) > 1 else G, region, xp)
                if len(leaf.regions) == 1:
                    results[k][m.leaf] = there(box.reshape(leaf.shape))
                else:
                    boxes[k][m.leaf, m.region] = there(box)
                start = stop
    for result, found in zip(results, boxes, strict=True):
        for i in {i for i, _ in found}:
            leaf, xp = layout.leaves[i], namespace(result[i])
            mine = [found[i, r] for r in range(len(leaf.regions))]
            result[i] = assemble(mine, leaf.regions, xp).reshape(leaf.shape)
    return results


def _workplace(s: Stack, x: Array) -> tuple[Any, Any, Any]:
    """Return functions that take arrays like x to where they are turned, and back, and its namespace.

    It is numpy where that computes the products: its other calls take less time than torch's too.
    """
    if s.sharable:
        return same, same, namespace(x)
    return (to_host, sys.modules["torch"].from_numpy, np) if by_numpy(x) else (same, same, namespace(x))


def as_merged(x: Array, leaf: Leaf) -> Array:
    """Return x, of the shape of a leaf, in its merged shape."""
    return x if leaf.shape == leaf.merged else x.reshape(leaf.merged)


def overlaps(old: Array, new: Array) -> Array:
    """Return (Q_new^T Q_old)^2, entry by entry: it maps the variances of uncorrelated old coordinates to new ones.

    A basis whose vectors are only reordered reorders them.
    """
    xp = namespace(old)
    T = xp.matmul(xp.matrix_transpose(new), old)
    return T * T


def moved_moments(layout: Layout, arrays: Arrays, s: Stack, axis: int, index: Any, squares: Array) -> dict[str, Array]:
    """Return the second moments after a change of basis along one dimension of some blocks of a stack.

    Parameters
    ----------
    index : int array (k,)
        Numbers of the blocks.
    squares : array (k, n, n)
        The `overlaps` of these blocks.
    """
    xp = namespace(squares)
    changed: dict[str, Array] = {}
    for m in s.members:
        mine = np.flatnonzero((index >= m.start) & (index < m.stop))
        if not mine.size:
            continue
        at, rows = like(mine, squares), like(index[mine] - m.start, squares)
        leaf = layout.leaves[m.leaf]
        name, region = leaf.name("moment"), leaf.regions[m.region]
        moment = changed[name] if name in changed else copy(arrays[name])
        whole = moment.reshape(leaf.merged)
        blocks = stack(whole, region, xp)
        part = along(blocks[rows], squares[at], axis, xp)
        blocks = blocks.at[rows].set(part) if is_jax(blocks) else _put(copy(blocks), rows, part)
        box = unstack(blocks, region, xp)
        if is_jax(whole):
            whole = whole.at[region.slices].set(box)
        else:
            whole[region.slices] = box
        changed[name] = whole.reshape(leaf.shape)
    return changed


def _put(x: Array, rows: Array, values: Array) -> Array:
    x[rows] = values
    return x
