"""Installation of the answers of an engine: good roots are taken, and the others are counted."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Container, Iterable, Mapping, MutableMapping
from typing import Any

import numpy as np

from matroot_optim.arrays import Array, largest, to_host
from matroot_optim.entries import BOOKS, Pending
from matroot_optim.layout.layout import Layout
from matroot_optim.layout.parts import Stack
from matroot_optim.refresh.engines import Failure
from matroot_optim.refresh.jobs import FACTS, RootJob
from matroot_optim.refresh.rows import like_or_same, put_rows, some_rows, take_rows
from matroot_optim.step.bases import moved_moments, overlaps
from matroot_optim.step.statistics import unpack

Arrays = dict[str, Array]
#: What an answer changes beside a root.
OF_BOOKS = (*FACTS, *BOOKS)


def install(layout: Layout, arrays: MutableMapping[str, Array], pending: Pending, own: Container[str]) -> Arrays:
    """Return the arrays that the answer of a batch changes: take good roots, keep and count the others.

    `own` holds the names of the arrays that may be overwritten.
    """
    answer = pending.answer()
    new: Arrays = {}

    def now(name: str) -> Array:  # several jobs may be of one stack
        return new[name] if name in new else arrays[name]

    start = 0
    for job in pending.jobs:
        part = slice(start, start + len(job.index))
        start = part.stop
        books = {name: now(f"{job.key}/{name}").copy() for name in OF_BOOKS}
        if isinstance(answer, Failure):
            books["skipped"][job.index] += 1
        else:
            facts = {name: values[part] for name, values in answer.facts.items()}
            stack, axis = layout.factor_named[job.key]
            certified = gate(answer.root[part], facts["residual"], stack)
            good = enter(books, job, pending.submitted, facts, certified)
            if good.any():
                name = f"{job.key}/root"
                root = some_rows(answer.root[part], np.flatnonzero(good))
                n, rows = stack.shape[axis], job.index[good]
                values = like_or_same(root.reshape(-1, n, n) if stack.in_basis else unpack(root), now(name))
                decomposed = np.flatnonzero(facts["n_iter"][good] == 0) if stack.in_basis else ()
                if len(decomposed):  # columns of refined bases stay where they were
                    old = take_rows(now(name), rows[decomposed])
                    squares = overlaps(old, some_rows(values, decomposed))
                    new.update(moved_moments(layout, ChainMap(new, arrays), stack, axis, rows[decomposed], squares))
                new[name] = put_rows(now(name), rows, values, name in own or name in new)
        new.update({f"{job.key}/{name}": values for name, values in books.items()})
    return new


def install_all(layout: Layout, arrays: Arrays, batches: Iterable[Pending], own: Iterable[str] = ()) -> None:
    """Install batches into the arrays of a step, which round what they are given: once, however jobs are batched."""
    new: Arrays = {}
    mine = set(own)
    for batch in batches:
        new.update(install(layout, ChainMap(new, arrays), batch, mine))
        mine |= new.keys()
    arrays.update(new)


def enter(books: Arrays, job: RootJob, submitted: int, facts: Mapping[str, Any], certified: Any) -> Any:
    """Enter the facts of a job's roots into the counters of the stack; return the mask of the roots to take.

    After a load with a shorter lag, an answer may be older than the root in use; it is ignored.
    """
    newer = submitted > books["taken"][job.index]
    good, bad = newer & certified, newer & ~certified
    all_good = bool(good.all())
    taken = job.index if all_good else job.index[good]
    for name, values in facts.items():
        books[name][taken] = values if all_good else values[good]
    books["taken"][taken] = submitted
    books["refreshes"][taken] += 1
    books["failures"][taken] = 0
    if all_good:
        return good
    refused = job.index[bad]
    books["status"][refused] = facts["status"][bad]
    books["failures"][refused] += 1  # the next try has ten times the ridge
    books["skipped"][refused] += 1
    return good


def gate(root: Array, residual: Any, stack: Stack) -> Any:
    """Return a mask of the good roots: finite, with a certified residual within the tolerance, and not too large."""
    size = np.asarray(to_host(largest(root) + 0.0 * root.sum(-1)))  # NaN if an entry is not finite
    return (size <= stack.largest) & (residual <= stack.options.root_tolerance)
