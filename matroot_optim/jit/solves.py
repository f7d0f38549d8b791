"""Roots and bases of a compiled step: traced, or by a callback on the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from matroot_optim.arrays import Array
from matroot_optim.callbacks import call
from matroot_optim.jit.dealing import Owners, Share, dealt, on_hosts
from matroot_optim.jit.members import all_of, any_of
from matroot_optim.jit.roots import minimax_root
from matroot_optim.jit.shards import Shards
from matroot_optim.jit.turns import Due
from matroot_optim.refresh.bases import new_bases
from matroot_optim.refresh.due import basis_tasks, rules_of
from matroot_optim.refresh.jobs import FACTS, RootJob, stack_jobs
from matroot_optim.rules import relative_ridge
from matroot_optim.step.statistics import pack, packed_size, unpack

Arrays = dict[str, Array]
Answers = list[tuple[Array, Arrays]]


def in_graph(
    items: Due, rows: Sequence[Array], histories: Sequence[Array], shards: Shards | None = None, owners: Owners = ()
) -> Answers:
    """Compute roots by a fixed schedule, with equal orders and exponents in one stack.

    On a mesh every device computes a share of each stack.
    """
    groups: dict[Any, list[int]] = {}
    for k, (stack, axis, _) in enumerate(items):
        groups.setdefault((stack.shape[axis], stack.exponent(axis), relative_ridge(stack.options.rule)), []).append(k)
    works = [partial(_root_in_graph, exponent, ridge) for _, exponent, ridge in groups]
    stacks = [
        (jnp.concatenate([rows[k] for k in members]), jnp.concatenate([histories[k][0] for k in members]))
        for members in groups.values()
    ]
    answers: dict[int, tuple[Array, Arrays]] = {}
    for members, (X, facts) in zip(groups.values(), _computed(shards, works, stacks), strict=True):
        start = 0
        for k in members:
            part = slice(start, start + len(rows[k]))
            answers[k] = X[part], {name: value[part] for name, value in facts.items()}
            start = part.stop
    return [answers[k] for k in range(len(items))]


def _root_in_graph(exponent: Any, ridge: Any, packed: Array, level: Array) -> tuple[Array, Arrays]:
    with jax.default_matmul_precision("highest"):  # jax's default on a GPU is TF32
        return minimax_root(unpack(packed), exponent, ridge, level, jnp)


def _computed(
    shards: Shards | None, works: Sequence[Callable[..., Any]], stacks: Sequence[tuple[Array, ...]]
) -> list[tuple[Array, Arrays]]:
    if shards is not None:
        return dealt(shards, works, stacks)
    return [work(*stack) for work, stack in zip(works, stacks, strict=True)]


def by_callback(
    items: Due, rows: Sequence[Array], histories: Sequence[Array], shards: Shards | None = None, owners: Owners = ()
) -> Answers:
    """Compute roots by matroot in numpy, in float64 even if jax runs without it; on a mesh, each on its owner."""
    roots = [
        jax.ShapeDtypeStruct((len(index), packed_size(stack.shape[axis])), row.dtype)
        for (stack, axis, index), row in zip(items, rows, strict=True)
    ]

    def host(number: Any, rows: Any, histories: Any) -> list[Any]:
        share = Share(owners, int(number))
        return _solve_on_host(items, [np.asarray(x) for x in rows], [np.asarray(x) for x in histories], share)

    return [(unpack(X), facts) for X, facts in _asked(shards, host, roots, list(rows), list(histories))]


def _asked(shards: Shards | None, host: Callable[..., list[Any]], roots: Sequence[Any], *args: Any) -> Answers:
    """Return what the host computes: arrays of these shapes, each followed by the facts of its rows."""
    facts = [jax.ShapeDtypeStruct((x.shape[0], len(FACTS)), jnp.float32) for x in roots]
    shapes = [shape for pair in zip(roots, facts, strict=True) for shape in pair]
    if shards is not None:
        flat = on_hosts(shards, host, shapes, *args)
    else:
        flat = call(partial(host, 0), shapes, *args)
    return [
        (X, {name: facts[:, k] for k, name in enumerate(FACTS)}) for X, facts in zip(flat[::2], flat[1::2], strict=True)
    ]


def _solve_on_host(items: Due, rows: Sequence[Any], histories: Sequence[Any], share: Share) -> list[Any]:
    """Compute packed roots and facts of every item, in numpy only."""
    jobs, out = [], []
    for k, (stack, axis, _) in enumerate(items):
        o, n = stack.options, stack.shape[axis]
        X = np.broadcast_to(pack(np.eye(n, dtype=rows[k].dtype)), rows[k].shape).copy()
        out += [X, np.full((len(X), len(FACTS)), np.nan, np.float32)]
        useful = np.flatnonzero(abs(rows[k]).sum(-1) > 0)
        for rule, at in rules_of(stack, axis, *histories[k][:, useful]) if useful.size else ():
            index, s = useful[at], stack.exponent(axis)
            jobs.append(RootJob(str(k), index, rows[k][index], s, rule, 0, o.root_method, o.root_dtype))
    _fill(out, jobs, lambda roots, n: roots, share)
    return share.of(out)


def _fill(out: list[Any], jobs: Sequence[RootJob], shaped: Callable[[Any, int], Any], share: Share) -> None:
    """Compute this host's rows of the jobs, and put answers and facts into the arrays of their items."""
    for batch, group in stack_jobs(jobs):
        mine, start = share.rows(group), 0
        answer = share.compute(batch, mine)
        if answer is None:
            continue
        for job in group:
            part = slice(start, start + len(job.index))
            k, index, start = int(job.key), job.index, part.stop
            if mine is not None:
                at = part
                part = slice(*np.searchsorted(mine, (at.start, at.stop)))
                index = index[mine[part] - at.start]
            out[2 * k][index] = shaped(answer.root[part], batch.n)
            out[2 * k + 1][index] = np.stack([values[part] for values in answer.facts.values()], axis=1)


# Bases, of SOAP.


def bases_in_graph(
    items: Due,
    rows: Sequence[Array],
    old: Sequence[Array],
    taken: Sequence[Array],
    shards: Shards | None = None,
    owners: Owners = (),
) -> Answers:
    """Compute bases in the graph, in the precision of the statistics; on a mesh every device computes a share."""
    works = [partial(_bases_in_graph, stack.options.basis) for stack, _, _ in items]
    return _computed(shards, works, list(zip(rows, old, taken, strict=True)))


def _bases_in_graph(basis: str, row: Array, Q: Array, known: Array) -> tuple[Array, Arrays]:
    A, first, dtype = unpack(row), (known <= 0) | (basis == "eigh"), str(row.dtype)
    with jax.default_matmul_precision("highest"):
        whole, refine = partial(new_bases, A, None, "eigh", dtype), partial(new_bases, A, Q, "qr", dtype)
        X, facts = jax.lax.cond(any_of(jnp.any(first)), whole, refine)
        other, others = jax.lax.cond(all_of(jnp.all(first)), whole, refine)
    pick = {name: jnp.where(first, value, others[name]) for name, value in facts.items()}
    return jnp.where(first[:, None, None], X, other), pick


def bases_by_callback(
    items: Due,
    rows: Sequence[Array],
    old: Sequence[Array],
    taken: Sequence[Array],
    shards: Shards | None = None,
    owners: Owners = (),
) -> Answers:
    """Compute bases in numpy; on a mesh, each on its owner."""
    bases = [jax.ShapeDtypeStruct(Q.shape, row.dtype) for row, Q in zip(rows, old, strict=True)]

    def host(number: Any, *given: Any) -> list[Any]:
        share = Share(owners, int(number))
        numbers, Q, known = ([np.asarray(x) for x in part] for part in given)
        return _bases_on_host(items, numbers, Q, known, share)

    return _asked(shards, host, bases, list(rows), list(old), list(taken))


def _bases_on_host(
    items: Due, rows: Sequence[Any], old: Sequence[Any], taken: Sequence[Any], share: Share
) -> list[Any]:
    jobs, out = [], []
    for k, (stack, _, _) in enumerate(items):
        out += [old[k].copy(), np.full((len(old[k]), len(FACTS)), np.nan, np.float32)]
        at = np.flatnonzero(abs(rows[k]).sum(-1) > 0)
        jobs += basis_tasks(str(k), stack, at, rows[k][at], old[k][at], taken[k][at], 0)
    _fill(out, jobs, lambda bases, n: bases.reshape(-1, n, n), share)
    return share.of(out)
