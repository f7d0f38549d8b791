"""Try every method that applies to the matrices of a file: seconds, residual, forward error, status."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from matroot.cli import files
from matroot.cli import root as cli_root

BUDGET = 1.0  # seconds of repeats per method, after the first run
COLD = 10  # a first run up to so many times that long is repeated in any case: it may have compiled for seconds
COLUMNS = ("method", "seconds", "products", "residual", "forward error", "status")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments of ``matroot compare``."""
    cli_root.problem(parser)


def run(options: argparse.Namespace) -> int:
    """Print one table per array; return 1 if no method solved some array."""
    solved = True
    for name, a in files.read(options.file, options.key).items():
        print(cli_root.title(options, name, a))
        with cli_root.errors_named(options, name):
            rows, refusals, reference = compare(a, options.p, **cli_root.keywords(options))
        print(table([COLUMNS, *rows]))
        print(f"forward error: ||X - X*||_F / ||X*||_F, X* by {reference} in float64; times are medians")
        for method, reason in refusals.items():
            print(f"{method} does not apply: {reason}")
        solved = solved and any(row[-1] in ("CONVERGED", "ILL_CONDITIONED") for row in rows)
    return 0 if solved else 1


def compare(a: np.ndarray[Any, Any], p: int, **keywords: Any) -> tuple[list[tuple[str, ...]], dict[str, str], str]:
    """Return the rows of the table, the sentence of every method that refused, and the name of the reference."""
    import matroot
    from matroot._selection import METHODS

    reference = "schur_newton" if keywords["assume_a"] == "gen" else "eigen"
    wide = a.astype(np.complex128 if a.dtype.kind == "c" else np.float64)
    exact = matroot.solve(wide, p, method=reference, **keywords).x
    rows: list[tuple[str, ...]] = []
    refusals: dict[str, str] = {}
    for name in METHODS:
        try:
            result, seconds = timed(partial(matroot.solve, a, p, method=name, **keywords))
        except (ValueError, NotImplementedError) as reason:
            refusals[name] = str(reason)
            continue
        rows.append(
            (
                name,
                f"{seconds:.3g}",
                str(result.n_products),
                _largest(result.residual),
                _largest(forward_error(result.x, exact)),
                worst_status(result.status),
            )
        )
    return rows, refusals, reference


def timed(f: Callable[[], Any]) -> tuple[Any, float]:
    """Return the value of `f` and its median time, without the first run (it may compile) if there are more."""
    start = time.perf_counter()
    value = f()
    seconds = [time.perf_counter() - start]
    warm = 0.0
    while len(seconds) <= 7 and (warm + seconds[-1] <= BUDGET or (len(seconds) == 1 and seconds[0] <= COLD * BUDGET)):
        start = time.perf_counter()
        f()
        seconds.append(time.perf_counter() - start)
        warm += seconds[-1]
    return value, median(seconds[1:] or seconds)


def forward_error(X: np.ndarray[Any, Any], exact: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Compute ||X - X*||_F / ||X*||_F of every matrix of a batch."""
    norm = np.linalg.norm(exact, axis=(-2, -1))
    error = np.linalg.norm(X - exact, axis=(-2, -1))
    return np.asarray(error / np.where(norm > 0, norm, 1))


def worst_status(status: np.ndarray[Any, Any]) -> str:
    """Return the name of the worst status of a batch, with the number of such matrices unless all have it."""
    from matroot._status import Status

    if status.size == 0:
        return Status.CONVERGED.name
    worst = max((s for s in Status if (status == s.value).any()), key=lambda s: s.value)
    count = int((status == worst.value).sum())
    return worst.name + ("" if count == status.size else f" ({count} of {status.size})")


def table(rows: list[tuple[str, ...]]) -> str:
    """Align the columns: the first and the last to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    last = len(widths) - 1
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i in (0, last) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _largest(values: Any) -> str:
    flat = np.asarray(values).ravel()
    return format(flat.max() if flat.size else 0.0, ".1e")
