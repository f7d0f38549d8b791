"""Stage 2: the roots that are due, and their jobs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np

from matroot_optim.arrays import Array, is_torch, like, namespace, to_host
from matroot_optim.entries import Pending, fresh_marks
from matroot_optim.layout.layout import Layout
from matroot_optim.layout.parts import Stack
from matroot_optim.options import Options
from matroot_optim.refresh.engines import Engine
from matroot_optim.refresh.jobs import RootJob, stack_jobs, stale_error
from matroot_optim.refresh.methods import crowds, methods_of
from matroot_optim.refresh.phases import due, takes_two_steps, wanted
from matroot_optim.refresh.rows import some_rows, take_rows
from matroot_optim.rules import Rule, in_units, stronger, with_cut
from matroot_optim.step.grafting import bias_correction

Arrays = dict[str, Array]
#: Exponent of jobs for bases, where it has no meaning.
BASIS = Fraction(-1)
#: Up to so many numbers a list is faster than an array.
FEW = 32


def steps_to_use(options: Options, layout: Layout, stack: Stack, step: int) -> int:
    """Return the steps from the statistics of a root to its use, without the engine's: 1 if the root takes two steps.

    Roots have two steps where `takes_two_steps`, after the first interval of Shampoo. Units must not matter, since the
    gradients may get others in between.
    """
    interval, o = options.interval(step), stack.options
    if options.schedule == "interval" or o.root_device != "host" or o.graft == "none" or options.algorithm == "soap":
        return 0
    if stack.in_basis or stack.whitened or step < o.first_root_step + interval:
        return 0
    return int(takes_two_steps(layout.orders, interval))


def due_jobs(
    options: Options, layout: Layout, arrays: Arrays, step: int, wait: int | None = None
) -> tuple[list[RootJob], Arrays]:
    """Return the jobs of a step, and the counters that they change.

    With `wait`, the jobs are of roots with so many `steps_to_use`.
    """
    jobs: list[RootJob] = []
    books: Arrays = {}
    together: Arrays = {}
    interval = options.interval(step)
    grown = step > 1 and options.schedule != "interval" and interval > options.interval(step - 1)
    dealt = fresh_marks(layout, interval, options.schedule) if grown else {}
    turns = ((s, *turn) for s in layout.stacks for turn in s.turns)
    lag, first_root_step = options.lag, options.first_root_step
    for stack, axis, key, mark_name, taken_name in turns:
        # SOAP's roots, of tables, are used after their step, and must be there when they are first used.
        start = min(stack.first_root_step, first_root_step)
        if wait is not None and wait != steps_to_use(options, layout, stack, step):
            continue
        mark, taken = arrays[mark_name], arrays[taken_name]
        # most stacks at most steps: skip the masks
        if not grown and least(mark) > step - interval and least(taken) >= 0 and step != max(1, start - lag):
            continue
        if grown:  # new phases for the longer interval
            mark = books[f"{key}/mark"] = dealt[f"{key}/mark"] + step - 1
        on_time = due(mark, step, interval)
        useful = on_time & (step > start - lag - interval)  # leave out roots that Shampoo never uses
        index = np.flatnonzero(useful | wanted(mark, taken, step, start, lag))
        if on_time.any():
            books[f"{key}/mark"] = np.where(on_time, step, mark)
        if not index.size:
            continue
        books[f"{key}/taken"] = np.maximum(taken, 0)
        later = max(lag, steps_to_use(options, layout, stack, step))
        first = taken[index] <= 0  # needed at once
        together = together or crowds(layout, interval, options.schedule)
        for part, ahead in ((index[~first], later), (index[first], lag)):
            if part.size:
                jobs += _jobs(options, arrays, books, stack, axis, part, step + ahead, together[key])
    return jobs, books


def least(x: Any) -> Any:
    """Return the smallest of some integers; of a few, Python is the quicker."""
    return min(x.tolist()) if len(x) <= FEW else np.minimum.reduce(x)


def _jobs(
    options: Options, arrays: Arrays, books: Arrays, stack: Stack, axis: int, index: Any, when: int, crowd: Any
) -> list[RootJob]:
    """Return the jobs for these blocks of a stack, one for every regularization and method."""
    o, key = stack.options, stack.axis_name(axis)
    accumulated = arrays["accumulated"][stack.leaf_of_block[index]]
    rows = _rows_for(o, arrays[f"{key}/statistic"], index)
    useful = (accumulated > 0) & np.asarray(to_host(abs(rows).sum(-1)) > 0)  # a zero matrix has no inverse root
    if not useful.all():
        index, rows, accumulated = index[useful], take_rows(rows, np.flatnonzero(useful)), accumulated[useful]
    if stack.in_basis:
        return _basis_jobs(arrays, stack, axis, index, rows, when)
    if o.bias_correction and o.betas[1] < 1.0:
        scale = bias_correction(o.betas[1], accumulated.astype(np.float64))
        rows = rows / like(scale.astype(stack.dtype), rows)[:, None]
    if options.schedule == "residual":
        index, rows = _stale_only(options, arrays, books, stack, axis, index, rows)
        accumulated = arrays["accumulated"][stack.leaf_of_block[index]]
    jobs = []
    units = arrays["exponent"][stack.leaf_of_block[index]]
    for rule, at in rules_of(stack, axis, arrays[f"{key}/failures"][index], accumulated, units):
        for method, some in methods_of(stack, axis, rule, rows, crowd[index[at]]):
            mine = at[some]
            matrix = some_rows(rows, mine)
            jobs.append(RootJob(key, index[mine], matrix, stack.exponent(axis), rule, when, method, o.root_dtype))
    return jobs


def _rows_for(options: Options, x: Array, index: Any) -> Array:
    """Return copies of some rows where the roots are computed."""
    if options.root_device != "host":
        return take_rows(x, index)
    return take_rows(to_host(x), index) if is_torch(x) and x.is_cpu else to_host(take_rows(x, index))


def _basis_jobs(arrays: Arrays, stack: Stack, axis: int, index: Any, rows: Array, when: int) -> list[RootJob]:
    """Return the jobs for the eigenbases of these blocks."""
    key = stack.axis_name(axis)
    Q = _rows_for(stack.options, arrays[f"{key}/root"], index)
    return basis_tasks(key, stack, index, rows, Q, arrays[f"{key}/taken"][index], when)


def basis_tasks(key: str, stack: Stack, index: Any, rows: Array, Q: Array, taken: Any, when: int) -> list[RootJob]:
    """Return jobs for the bases of the blocks `index`, decompositions and refinements of the old Q."""
    o, jobs = stack.options, []
    first = (taken <= 0) | (o.basis == "eigh")
    for task, mask in (("eigh", first), ("qr", ~first)):
        at = np.flatnonzero(mask)
        if not at.size:
            continue
        matrix = some_rows(rows, at)
        dtype = o.root_dtype
        if task == "qr":  # corrects itself, and is exact enough in the precision of the statistics, as published
            dtype = stack.dtype
            old = some_rows(Q, at)
            matrix = namespace(matrix).concat([matrix, old.reshape(len(at), -1)], axis=1)
        jobs.append(RootJob(key, index[at], matrix, BASIS, 0.0, when, o.root_method, dtype, task))
    return jobs


def rules_of(stack: Stack, axis: int, failures: Any, gradients: Any, units: Any) -> list[tuple[Rule, Any]]:
    """Return the regularizations of some blocks of a stack, each with the positions of its blocks.

    They depend on the bad roots in a row, the gradients in the statistic, and the exponents of the units of the
    gradients.
    """
    beta, n, rule = stack.options.betas[1], stack.shape[axis], stack.options.rule
    most = round(1 / (1 - beta)) if beta < 1.0 else math.inf  # older gradients have no weight
    kinds: dict[tuple[int, int, int], list[int]] = {}
    for k, (level, count, e) in enumerate(zip(failures.tolist(), gradients.tolist(), units.tolist(), strict=True)):
        bucket = 1 << (max(1, min(count, most)) - 1).bit_length()  # of few sizes, so that one call serves many blocks
        kinds.setdefault((level, bucket, e), []).append(k)
    found: dict[Rule, list[int]] = {}
    for level, count, e in sorted(kinds):
        mine = in_units(stronger(with_cut(rule, n, stack.dtype, count), level), 2 * e)
        found.setdefault(mine, []).extend(kinds[level, count, e])
    return [(mine, np.sort(at)) for mine, at in found.items()]


def _stale_only(
    options: Options, arrays: Arrays, books: Arrays, stack: Stack, axis: int, index: Any, rows: Array
) -> tuple[Any, Array]:
    """Select the due blocks whose old root is no longer good enough; count the others as spared."""
    key = stack.axis_name(axis)
    root = take_rows(arrays[f"{key}/root"], index)
    error = stale_error(
        root, rows, stack.exponent(axis), arrays[f"{key}/ridge"][index], scale_free=stack.options.graft != "none"
    )
    good = (error <= options.stale_tolerance) & (arrays[f"{key}/taken"][index] > 0)
    spared = arrays[f"{key}/spared"].copy()
    spared[index[good]] += 1
    books[f"{key}/spared"] = spared
    stale = np.flatnonzero(~good)
    return index[stale], take_rows(rows, stale)


def submit(
    engine: Engine, jobs: Sequence[RootJob], step: int, counts: Any = (), rates: Callable[[], str] = str
) -> list[Pending]:
    """Stack the jobs and hand them to the engine, all batches of the step in one call if the engine takes them so.

    Ranks compare `counts`, the steps of every parameter that counted, and `rates`, the numbers of this step in words.
    """
    stacked = stack_jobs(jobs)
    batches = [batch for batch, _ in stacked]
    together, alone = getattr(engine, "submit_all", None), getattr(engine, "collect_alone", engine.collect)
    if together is None:
        handles = [engine.submit(batch) for batch in batches]
    else:
        handles = together(batches, np.asarray(counts).tobytes(), rates())
    return [
        Pending(
            step,
            tuple(replace(job, matrix=None) for job in group),
            partial(engine.collect, handle),
            partial(alone, handle),
        )
        for (_, group), handle in zip(stacked, handles, strict=True)
    ]
