"""Compute A^(-1/p), or A^(1/p) with --pth-root, of every matrix of a file, and say how good it is."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from matroot._selection import names
from matroot.cli import files

#: Values of ``--compute-dtype``.
DTYPES = ("float32", "float64", "complex64", "complex128")
#: Keywords in the library's sentences, and the options of the command line for them.
OPTIONS = {
    "assume_a='gen'": "--general",
    "method='eigen'": "--method eigen",
    "compute_dtype='float64'": "--compute-dtype float64",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments of ``matroot root``."""
    problem(parser)
    parser.add_argument(
        "--method", default="auto", choices=names(), metavar="NAME", help=f"one of {', '.join(names())}"
    )
    parser.add_argument("--rtol", type=_size, help="relative accuracy that is enough (default: all there is)")
    parser.add_argument("--max-iter", type=_degree, help="most iterations of an iterative method")
    parser.add_argument("--compute-dtype", choices=DTYPES, help="precision of the arithmetic")
    parser.add_argument("-o", "--output", metavar="OUT", type=_output, help=".npy, .npz, .csv or .mtx to write")


def problem(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments that choose the root and the matrices."""
    parser.add_argument("file", metavar="FILE", type=Path, help=".npy, .npz, .csv or .mtx, (..., n, n)")
    parser.add_argument("-p", type=_degree, required=True, help="degree of the root, a positive integer")
    parser.add_argument("--pth-root", action="store_true", help="A^(1/p) instead of A^(-1/p)")
    parser.add_argument("--key", help="the one array wanted from an .npz file")
    parser.add_argument("--general", action="store_true", help="A is not symmetric: the principal root")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--ridge", type=_size, metavar="EPS", help="add EPS * lambda_max to the diagonal")
    kinds.add_argument("--floor", type=_size, metavar="EPS", help="raise eigenvalues to EPS * lambda_max")
    kinds.add_argument("--pseudo-inverse", action="store_true", help="send zero eigenvalues to zero")
    kinds.add_argument("--target-condition", type=_above_one, metavar="KAPPA", help="add what gives cond KAPPA")


def keywords(options: argparse.Namespace) -> dict[str, Any]:
    """Return the keywords of `matroot.solve` for the arguments of `problem`."""
    import matroot

    regularization: Any = options.ridge
    if options.floor is not None:
        regularization = matroot.Floor(relative=options.floor)
    elif options.pseudo_inverse:
        regularization = matroot.PseudoInverse()
    elif options.target_condition is not None:
        regularization = matroot.TargetCondition(options.target_condition)
    return {
        "inverse": not options.pth_root,
        "assume_a": "gen" if options.general else "pos",
        "regularization": regularization,
    }


def in_options(text: str) -> str:
    """Replace keywords in a sentence of the library by options of the command line."""
    for keyword, option in OPTIONS.items():
        text = text.replace(keyword, option)
    return text


def _degree(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a positive integer is wanted, not {text!r}")
    return int(text)


def _size(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"a number that is not negative is wanted, not {text!r}")
    return value


def _above_one(text: str) -> float:
    value = float(text)
    if not 1 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"a number above 1 is wanted, not {text!r}")
    return value


def _output(text: str) -> Path:
    path = Path(text)
    try:
        files.check_suffix(path)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return path


def run(options: argparse.Namespace) -> int:
    """Read, solve, report, and write if no matrix failed."""
    import matroot

    arrays = files.read(options.file, options.key)
    if options.output is not None:
        files.check_fits(options.output, arrays)
    accuracy = {"rtol": options.rtol, "max_iter": options.max_iter, "compute_dtype": options.compute_dtype}
    roots: dict[str, np.ndarray[Any, Any]] = {}
    failed = total = 0
    for name, a in arrays.items():
        start = time.perf_counter()
        with errors_named(options, name):
            result = matroot.solve(a, options.p, method=options.method, **keywords(options), **accuracy)
        seconds = time.perf_counter() - start
        roots[name] = result.x
        failed += int((~np.isin(result.status, [int(s) for s in matroot._status.USABLE])).sum())
        total += result.status.size
        print(title(options, name, a))
        print(report(result, seconds))
    if failed:
        which = "no root" if total == 1 else f"{failed} of {total} matrices have no root"
        print(f"matroot: error: {files.shown(options.file)}: {which}; nothing was written", file=sys.stderr)
        return 1
    if options.output is not None:
        files.write(options.output, roots)
        print(f"written to {options.output}")
    return 0


def title(options: argparse.Namespace, name: str, a: np.ndarray[Any, Any]) -> str:
    """Return the title of a report: file, shape, dtype, exponent."""
    shape = " x ".join(map(str, a.shape))
    exponent = f"{'' if options.pth_root else '-'}1/{options.p}"
    return f"{source(options, name)}: {shape} {a.dtype}, A^({exponent})"


def source(options: argparse.Namespace, name: str) -> str:
    """Return the file name, with the name of the array if the file has several."""
    return files.shown(f"{options.file}{f'[{name}]' if name else ''}")


@contextmanager
def errors_named(options: argparse.Namespace, name: str) -> Iterator[None]:
    """Prefix error messages with the file and the array."""
    try:
        yield
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ValueError(f"{source(options, name)}: {error}") from error
    except MemoryError as error:
        raise MemoryError(f"{source(options, name)}: {error}") from error


def report(result: Any, seconds: float) -> str:
    """Format the result as lines of text, with the worst values of a batch."""
    rows = {
        "status": _statuses(result.status),
        "": in_options(result.message),
        "method": repr(result.method),
        "residual": f"{_worst(result.residual)} ({result.certificate}, in float64)",
        "cond": _worst(result.cond),
        "bits lost": _worst(result.bits_lost, ".1f"),
        "ridge": _worst(result.ridge),
        "work": f"{_worst(result.n_iter, 'd')} iterations, {result.n_products} products",
        "precision": result.compute_dtype,
        "time": f"{seconds:.3g} s",
    }
    return "\n".join(f"  {name:<10} {text}" for name, text in rows.items())


def _statuses(status: np.ndarray[Any, Any]) -> str:
    from matroot._status import Status

    counts = {s.name: int((status == s.value).sum()) for s in Status}
    return ", ".join(f"{name} {k}" for name, k in counts.items() if k) or "empty batch"


def _worst(values: Any, form: str = ".2e") -> str:
    flat = np.asarray(values).ravel()
    return format(flat.max() if flat.size else 0, form)
