"""Roots and bases of a compiled step: traced, or by a callback on the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from matroot_optim.arrays import Array
from matroot_optim.jit.roots import minimax_root
from matroot_optim.jit.turns import Due
from matroot_optim.refresh.bases import new_bases
from matroot_optim.refresh.due import basis_tasks, rules_of
from matroot_optim.refresh.jobs import FACTS, RootJob, compute, stack_jobs
from matroot_optim.rules import relative_ridge
from matroot_optim.step.statistics import pack, packed_size, unpack

Arrays = dict[str, Array]
Answers = list[tuple[Array, Arrays]]


def in_graph(items: Due, rows: Sequence[Array], histories: Sequence[Array]) -> Answers:
    """Compute roots by a fixed schedule, with equal orders and exponents in one stack."""
    groups: dict[Any, list[int]] = {}
    for k, (stack, axis, _) in enumerate(items):
        groups.setdefault((stack.shape[axis], stack.exponent(axis), relative_ridge(stack.options.rule)), []).append(k)
    answers: dict[int, tuple[Array, Arrays]] = {}
    for (_, exponent, ridge), members in groups.items():
        A = unpack(jnp.concatenate([rows[k] for k in members]))
        level = jnp.concatenate([histories[k][0] for k in members])
        with jax.default_matmul_precision("highest"):  # jax's default on a GPU is TF32
            X, facts = minimax_root(A, exponent, ridge, level, jnp)
        start = 0
        for k in members:
            part = slice(start, start + len(rows[k]))
            answers[k] = X[part], {name: value[part] for name, value in facts.items()}
            start = part.stop
    return [answers[k] for k in range(len(items))]


def by_callback(items: Due, rows: Sequence[Array], histories: Sequence[Array]) -> Answers:
    """Compute roots by matroot in numpy, in float64 even if jax runs without it."""
    shapes = []
    for (stack, axis, index), row in zip(items, rows, strict=True):
        shapes.append(jax.ShapeDtypeStruct((len(index), packed_size(stack.shape[axis])), row.dtype))
        shapes.append(jax.ShapeDtypeStruct((len(index), len(FACTS)), jnp.float32))

    def host(rows: Any, histories: Any) -> list[Any]:
        return _solve_on_host(items, [np.asarray(x) for x in rows], [np.asarray(x) for x in histories])

    flat = jax.pure_callback(host, shapes, list(rows), list(histories), vmap_method="sequential")
    return [
        (unpack(X), {name: facts[:, k] for k, name in enumerate(FACTS)})
        for X, facts in zip(flat[::2], flat[1::2], strict=True)
    ]


def _solve_on_host(items: Due, rows: Sequence[Any], histories: Sequence[Any]) -> list[Any]:
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
    _fill(out, jobs, lambda roots, n: roots)
    return out


def _fill(out: list[Any], jobs: Sequence[RootJob], shaped: Callable[[Any, int], Any]) -> None:
    """Compute the jobs, and put answers and facts into the arrays of their items."""
    for batch, group in stack_jobs(jobs):
        answer, start = compute(batch), 0
        for job in group:
            part = slice(start, start + len(job.index))
            k = int(job.key)
            out[2 * k][job.index] = shaped(answer.root[part], batch.n)
            out[2 * k + 1][job.index] = np.stack([values[part] for values in answer.facts.values()], axis=1)
            start = part.stop


# Bases, of SOAP.


def bases_in_graph(items: Due, rows: Sequence[Array], old: Sequence[Array], taken: Sequence[Array]) -> Answers:
    """Compute bases in the graph, in the precision of the statistics."""
    answers = []
    for (stack, _, _), row, Q, known in zip(items, rows, old, taken, strict=True):
        A, first, dtype = unpack(row), (known <= 0) | (stack.options.basis == "eigh"), str(row.dtype)
        with jax.default_matmul_precision("highest"):
            whole = _decompose(A, dtype)
            refine = _refine(A, Q, dtype)
            X, facts = jax.lax.cond(jnp.any(first), whole, refine)
            other, others = jax.lax.cond(jnp.all(first), whole, refine)
        pick = {name: jnp.where(first, value, others[name]) for name, value in facts.items()}
        answers.append((jnp.where(first[:, None, None], X, other), pick))
    return answers


def _decompose(A: Array, dtype: str) -> Callable[[], tuple[Array, Arrays]]:
    return lambda: new_bases(A, None, "eigh", dtype)


def _refine(A: Array, Q: Array, dtype: str) -> Callable[[], tuple[Array, Arrays]]:
    return lambda: new_bases(A, Q, "qr", dtype)


def bases_by_callback(items: Due, rows: Sequence[Array], old: Sequence[Array], taken: Sequence[Array]) -> Answers:
    """Compute bases in numpy."""
    shapes = []
    for row, Q in zip(rows, old, strict=True):
        shapes.append(jax.ShapeDtypeStruct(Q.shape, row.dtype))
        shapes.append(jax.ShapeDtypeStruct((len(row), len(FACTS)), jnp.float32))

    def host(*given: Any) -> list[Any]:
        return _bases_on_host(items, *([np.asarray(x) for x in part] for part in given))

    flat = jax.pure_callback(host, shapes, list(rows), list(old), list(taken), vmap_method="sequential")
    return [
        (X, {name: facts[:, k] for k, name in enumerate(FACTS)}) for X, facts in zip(flat[::2], flat[1::2], strict=True)
    ]


def _bases_on_host(items: Due, rows: Sequence[Any], old: Sequence[Any], taken: Sequence[Any]) -> list[Any]:
    jobs, out = [], []
    for k, (stack, _, _) in enumerate(items):
        out += [old[k].copy(), np.full((len(old[k]), len(FACTS)), np.nan, np.float32)]
        at = np.flatnonzero(abs(rows[k]).sum(-1) > 0)
        found = basis_tasks(str(k), stack, rows[k][at], old[k][at], taken[k][at], 0)
        jobs += [replace(job, index=at[job.index]) for job in found]
    _fill(out, jobs, lambda bases, n: bases.reshape(-1, n, n))
    return out
