"""Helpers of all benchmarks: two cores at most, matrices from the gallery, and timing in turn.

Import this module first: it pins the process before numpy starts its threads.
"""

from __future__ import annotations

import os

#: Cores of all benchmarks; fewer where the process may use fewer: threads of others that share a core take longer.
CORES = min(2, len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else 2
#: Seconds after which the threads of one library have stopped waiting for more work.
REST = 0.1
#: What a track_ benchmark returns where a peer is left out; asv calls an exception a failure, and allows one in setup.
NOT_MEASURED = float("nan")


def _pin() -> None:
    """Keep the process, and every library's thread pool, on the first two cores that it may use."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "MATROOT_NUM_THREADS"):
        os.environ.setdefault(name, str(CORES))
    os.environ.setdefault("MATROOT_COMPILE", "now")


_pin()

import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from statistics import median  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402

from matroot import gallery  # noqa: E402

#: Methods for symmetric matrices; Schur-Newton serves them too, but is made for the others.
METHODS = ("eigen", "coupled_newton", "higher_order", "minimax", "newton_db", "tridiagonal")


def stack(n: int, batch: int, cond: float, dtype: str = "float64", spectrum: str = "geometric") -> Any:
    """A stack (batch, n, n) with every matrix different, and the function that gives its exact powers."""
    return gallery.spd(n, cond, spectrum, batch=(batch,), dtype=dtype, rng=n)


def forward_error(X: Any, exact: Any) -> float:
    """Largest relative error of the batch, in the Frobenius norm."""
    error = np.linalg.norm(np.asarray(X, exact.dtype) - exact, axis=(-2, -1))
    return float(np.max(error / np.linalg.norm(exact, axis=(-2, -1))))


def applies(method: str, p: int) -> bool:
    """Return True if `method` computes A^{-1/p}; benchmarks skip other cases."""
    return method != "newton_db" or (p > 1 and p & (p - 1) == 0)


def in_turn(*functions: Callable[[], Any], rounds: int = 7, sample: float = 0.02) -> list[float]:
    """Median seconds of each function, timed one after another in every round.

    Whatever slows the machine down for a while slows all of them, so the ratios hold where the seconds do
    not. A sample repeats a short function until it lasts `sample` seconds; the first calls, which may
    compile, are not counted. Before each sample the process rests, since threads of OpenBLAS and OpenMP spin for a
    while after their work, and would take the cores from whoever comes next.
    """
    counts = []
    for f in functions:
        f()
        counts.append(max(1, int(sample / max(_seconds(f, 1), 1e-9))))
    samples: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds):
        for f, count, mine in zip(functions, counts, samples, strict=True):
            time.sleep(REST)
            if count > 1:
                f()
            mine.append(_seconds(f, count))
    return [median(mine) for mine in samples]


def speedup(ours: Callable[[], Any], peer: Callable[[], Any], **how: Any) -> float:
    """Return the seconds of `peer` divided by those of `ours`, timed in turn."""
    mine, theirs = in_turn(ours, peer, **how)
    return theirs / mine


def unit(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a track_ benchmark its unit."""

    def mark(f: Callable[..., Any]) -> Callable[..., Any]:
        f.unit = text  # type: ignore[attr-defined]
        return f

    return mark


def core(*params: list[Any]) -> Callable[[type], type]:
    """Give a class of benchmarks these parameters instead of all, unless the variable MATROOT_GRID is set."""

    def mark(kind: Any) -> type:
        if not os.environ.get("MATROOT_GRID"):
            kind.params = params
        return kind  # type: ignore[no-any-return]

    return mark


def _seconds(f: Callable[[], Any], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        f()
    return (time.perf_counter() - start) / count
