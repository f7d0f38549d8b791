"""Compute A^(-1/p), or A^(1/p) with --pth-root, of every matrix of a file, and say how good it is."""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from matroot._selection import names
from matroot.cli import files, problem, status_table
from matroot.cli.parts import solve_in_parts

EXAMPLES = """\
examples:
  matroot root covariance.npy -p 2 -o whitening.npy
      A^(-1/2), with its residual and condition number
  matroot root overlap.csv -p 2 --cut 1e-7 --absolute -o orthogonalizer.csv
      eigenvalues up to 1e-7 are dropped
  matroot root rates.csv -p 12 --pth-root --general -o month.csv
      the twelfth root of a matrix that is not symmetric
  matroot root subjects.npz -p 2 --keep-going -o roots.npz --status-out status.csv
      NaN for the matrices without a root, and the status of each in a table
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments of ``matroot root``."""
    problem.arguments(parser)
    methods = names()
    parser.add_argument(
        "--method", default="auto", choices=methods, metavar="NAME", help=f"one of {', '.join(methods)}"
    )
    output = parser.add_argument_group("output")
    output.add_argument("-o", "--output", metavar="OUT", type=_output, help=f"{problem.FORMATS} to write")
    output.add_argument("--keep-going", action="store_true", help="write OUT with NaN for matrices without a root")
    output.add_argument(
        "--status-out", metavar="TABLE", type=_table, help=".csv, .json or .npz: status and numbers of every matrix"
    )


def _output(text: str) -> Path:
    return _checked(text, files.check_suffix)


def _table(text: str) -> Path:
    return _checked(text, status_table.check_suffix)


def _checked(text: str, check: Any) -> Path:
    path = Path(text)
    try:
        check(path)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return path


def run(options: argparse.Namespace) -> int:
    """Read, solve, report, and write; 1 if a matrix has no root, 3 if the others are written all the same."""
    keywords = problem.keywords(options)
    arrays = files.read(options.file, options.key)
    if options.output is not None:
        files.check_fits(options.output, arrays)
    if options.status_out is not None:
        files.check_place(options.status_out)
    results: dict[str, Any] = {}
    for name, a in arrays.items():
        start = time.perf_counter()
        with problem.errors_named(options, name):
            result = solve_in_parts(a, options.p, problem.source(options, name), method=options.method, **keywords)
        seconds = time.perf_counter() - start
        results[name] = result
        print(problem.title(options, name, a))
        print(report(result, seconds))
    if options.status_out is not None:
        status_table.write(options.status_out, results)
        print(f"status of every matrix in {options.status_out}")
    failed = {name: failures(result) for name, result in results.items()}
    lines = [sentence(options, name, indices, results[name]) for name, indices in failed.items() if len(indices)]
    going = not lines or options.keep_going
    if going and options.output is not None:
        files.write(options.output, {name: with_nan(results[name].x, failed[name]) for name in results})
        print(f"written to {options.output}")
    if going and options.output is None:
        print("not written to a file: -o OUT does that")
    end = "" if options.output is None else "; OUT has NaN there" if going else "; nothing was written"
    for line in lines:
        print(f"matroot: error: {line}{end}", file=sys.stderr)
    return 0 if not lines else 3 if going else 1


def failures(result: Any) -> np.ndarray[Any, Any]:
    """Return the indices of the matrices without a root in the flattened batch."""
    from matroot._status import USABLE

    return np.flatnonzero(~np.isin(result.status, [int(s) for s in USABLE]))


def sentence(options: argparse.Namespace, name: str, indices: np.ndarray[Any, Any], result: Any) -> str:
    """Say which matrices have no root."""
    total = result.status.size
    which = "no root" if total == 1 else f"{len(indices)} of {total} matrices have no root: {problem.listed(indices)}"
    return f"{problem.source(options, name)}: {which}"


def with_nan(x: np.ndarray[Any, Any], indices: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the roots with NaN at these indices of the flattened batch."""
    stack = x.reshape(math.prod(x.shape[:-2]), *x.shape[-2:]).copy()
    stack[indices] = np.nan
    return stack.reshape(x.shape)


def report(result: Any, seconds: float) -> str:
    """Format the result as lines of text, with the worst values of a batch."""
    rows = {
        "status": _statuses(result.status),
        "": problem.in_options(result.message),
        "method": repr(result.method),
        "residual": f"{problem.largest(result.residual)} ({result.certificate}, in float64)",
        "cond": problem.largest(result.cond),
        "bits lost": problem.largest(result.bits_lost, ".1f"),
        "ridge": problem.largest(result.ridge),
        "work": f"{problem.largest(result.n_iter, 'd')} iterations, {result.n_products} products",
        "precision": result.compute_dtype,
        "time": f"{seconds:.3g} s",
    }
    return "\n".join(f"  {name:<10} {text}" for name, text in rows.items())


def _statuses(status: np.ndarray[Any, Any]) -> str:
    from matroot._status import Status

    counts = {s.name: int((status == s.value).sum()) for s in Status}
    return ", ".join(f"{name} {k}" for name, k in counts.items() if k) or "empty batch"
