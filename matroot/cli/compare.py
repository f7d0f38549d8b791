"""Try every method that applies to the matrices of a file: seconds, residual, forward error, status."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from matroot._condition_tracker import table
from matroot.cli import by_hand, files, problem
from matroot.cli.progress import Progress

BUDGET = 1.0  # seconds of repeats per method, after the first run
COLD = 60  # a first run up to so many times that long is repeated in any case: it may have compiled for seconds
COLUMNS = ("method", "seconds", "products", "residual", "forward error", "status")
#: Options that the float64 reference does not take.
ACCURACY = ("rtol", "max_iter", "compute_dtype")
EXAMPLES = """\
examples:
  matroot compare covariance.npy -p 4
  matroot compare covariance.npy -p 2 --pth-root --rtol 1e-3 --compute-dtype float32
  matroot compare rates.csv -p 12 --pth-root --general
"numpy by hand" is eigh (--general: eig) of the whole file and recombination; "scipy by hand" is sqrtm and inv, or
fractional_matrix_power, matrix by matrix, and is left out where it would take more than half a minute
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments of ``matroot compare``."""
    problem.arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Print one table per array; return 1 if no method solved some array."""
    import matroot

    matroot.use_kernels()  # as later processes do
    solved = True
    keywords = problem.keywords(options)
    for name, a in files.read(options.file, options.key).items():
        print(problem.title(options, name, a), flush=True)
        with problem.errors_named(options, name):
            rows, refusals, reference = compare(a, options.p, **keywords)
        print(table([COLUMNS, *rows]))
        print(f"forward error: ||X - X*||_F / ||X*||_F, X* by {reference} in float64; times are medians")
        for method, reason in refusals.items():
            print(f"{method} does not apply: {problem.in_options(reason)}")
        solved = solved and any(row[-1] in ("CONVERGED", "ILL_CONDITIONED") for row in rows)
    return 0 if solved else 1


def compare(a: np.ndarray[Any, Any], p: int, **keywords: Any) -> tuple[list[tuple[str, ...]], dict[str, str], str]:
    """Return the rows of the table, the sentence of every method that refused, and the name of the reference."""
    import matroot
    from matroot._selection import METHODS

    reference = "schur_newton" if keywords["assume_a"] == "gen" else "eigen"
    wide = a.astype(np.complex128 if a.dtype.kind == "c" else np.float64)
    exact = matroot.solve(wide, p, method=reference, **{k: v for k, v in keywords.items() if k not in ACCURACY})
    rows: list[tuple[str, ...]] = []
    refusals: dict[str, str] = {}
    with Progress(len(METHODS) + len(by_hand.ROWS), "comparing") as progress:
        for name in METHODS:
            progress.name = name
            try:
                result, seconds = timed(partial(matroot.solve, a, p, method=name, **keywords))
            except (ValueError, NotImplementedError) as reason:
                refusals[name] = str(reason)
            else:
                work, residual = str(result.n_products), problem.largest(result.residual, ".1e")
                error, status = problem.largest(forward_error(result.x, exact.x), ".1e"), worst_status(result.status)
                rows.append((name, f"{seconds:.3g}", work, residual, error, status))
            progress.step()
        for name, method in by_hand.ROWS.items():
            progress.name = name
            try:
                rows.append((name, *_by_hand(method, a, exact, **keywords)))
            except (ValueError, np.linalg.LinAlgError) as reason:
                refusals[name] = str(reason)
            progress.step()
    return rows, refusals, reference


def _by_hand(method: Any, a: np.ndarray[Any, Any], exact: Any, regularization: Any, assume_a: str, **_: Any) -> Any:
    """Return the row of a method that is not matroot's, of the matrices with the same multiple of I added."""
    from matroot._regularization import as_regularization

    rule = as_regularization(regularization)
    if rule is not None and not rule.changes_spectrum:
        diagonal = np.nan_to_num(exact.ridge)[..., None, None] * np.eye(a.shape[-1])
        a, rule = (a + diagonal).astype(np.result_type(a.dtype, np.float32)), None
    X, seconds = timed(method(a, float(exact.exponent), rule, assume_a == "gen"))
    status = "-" if np.isfinite(X).all() else "NaN"
    return f"{seconds:.3g}", "-", "-", problem.largest(forward_error(X, exact.x), ".1e"), status


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
