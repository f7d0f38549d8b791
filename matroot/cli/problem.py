"""Options that ``root`` and ``compare`` share: the matrices, the root, the rule for small eigenvalues, the accuracy."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from matroot.cli import files

#: Values of ``--compute-dtype``.
DTYPES = ("float32", "float64", "complex64", "complex128")
#: Keywords in the library's sentences, and the options of the command line for them.
OPTIONS = {
    "pass assume_a='gen'": "give --general",
    "assume_a='gen'": "--general",
    "method='eigen'": "--method eigen",
    "compute_dtype='float64'": "--compute-dtype float64",
    "regularization=": "",
    "Ridge(absolute=...)": "--ridge EPS --absolute",
    "Shift(absolute=...)": "--shift EPS --absolute",
    "Ridge(...)": "--ridge EPS",
    "Floor(...)": "--floor EPS",
    "Shift(...)": "--shift EPS",
    "PseudoInverse()": "--pseudo-inverse",
    "max_iter": "--max-iter",
}
#: Indices of matrices in a line.
SHOWN = 10
FORMATS = ".npy, .npz, .csv, .txt or .mtx"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    parser.add_argument("file", metavar="FILE", type=Path, help=f"{FORMATS}, (..., n, n)")
    parser.add_argument("-p", type=_degree, required=True, metavar="P", help="degree of the root, a positive integer")
    parser.add_argument("--pth-root", action="store_true", help="A^(1/p) instead of A^(-1/p)")
    parser.add_argument("--key", metavar="NAME", help="the one array wanted from an .npz file")
    parser.add_argument("--general", action="store_true", help="A is not symmetric: the principal root")
    rules = parser.add_argument_group("small eigenvalues", "EPS is relative to the largest eigenvalue")
    kinds = rules.add_mutually_exclusive_group()
    kinds.add_argument("--ridge", type=_size, metavar="EPS", help="add EPS to every eigenvalue")
    kinds.add_argument("--shift", type=_size, metavar="EPS", help="add what moves the smallest eigenvalue up to EPS")
    kinds.add_argument("--floor", type=_size, metavar="EPS", help="raise eigenvalues below EPS to it")
    kinds.add_argument("--cut", type=_size, metavar="EPS", help="send eigenvalues up to EPS to zero")
    kinds.add_argument("--pseudo-inverse", action="store_true", help="send eigenvalues that are rounding to zero")
    kinds.add_argument("--target-condition", type=_above_one, metavar="KAPPA", help="add what gives cond KAPPA")
    rules.add_argument("--absolute", action="store_true", help="EPS is in the units of A")
    accuracy = parser.add_argument_group("accuracy")
    accuracy.add_argument("--rtol", type=_size, help="relative accuracy that is enough (default: all there is)")
    accuracy.add_argument("--max-iter", type=_count, metavar="N", help="most iterations of an iterative method")
    accuracy.add_argument("--compute-dtype", choices=DTYPES, help="precision of the arithmetic")


def keywords(options: argparse.Namespace) -> dict[str, Any]:
    """Return the keywords of `matroot.solve` for these arguments."""
    return {
        "inverse": not options.pth_root,
        "assume_a": "gen" if options.general else "pos",
        "regularization": _rule(options),
        "rtol": options.rtol,
        "max_iter": options.max_iter,
        "compute_dtype": options.compute_dtype,
    }


def _rule(options: argparse.Namespace) -> Any:
    import matroot

    how = "absolute" if options.absolute else "relative"
    for name, kind in (("ridge", matroot.Ridge), ("shift", matroot.Shift), ("floor", matroot.Floor)):
        if (size := getattr(options, name)) is not None:
            return kind(**{how: size})
    if options.cut is not None:
        sizes = {"rtol": 0.0, "absolute": options.cut} if options.absolute else {"rtol": options.cut}
        return matroot.PseudoInverse(**sizes)
    if options.absolute:
        raise ValueError("--absolute needs one of --ridge, --shift, --floor, --cut")
    if options.pseudo_inverse:
        return matroot.PseudoInverse()
    return None if options.target_condition is None else matroot.TargetCondition(options.target_condition)


def in_options(text: str) -> str:
    """Replace keywords in a sentence of the library by options of the command line."""
    text = re.sub(r"regularization=(?=\d)", "--ridge ", text)
    for keyword, option in OPTIONS.items():
        text = text.replace(keyword, option)
    return text


def title(options: argparse.Namespace, name: str, a: np.ndarray[Any, Any]) -> str:
    """Return the title of a report: file, shape, dtype, exponent."""
    exponent = f"{'' if options.pth_root else '-'}1/{options.p}"
    return f"{source(options, name)}: {sizes(a)}, A^({exponent})"


def sizes(a: np.ndarray[Any, Any]) -> str:
    """Return the shape and the dtype."""
    return f"{' x '.join(map(str, a.shape)) or 'a number'} {a.dtype}"


def source(options: argparse.Namespace, name: str) -> str:
    """Return the file name, with the name of the array if the file has several."""
    return files.shown(f"{options.file}{f'[{name}]' if name else ''}")


def largest(values: Any, form: str = ".2e") -> str:
    """Format the largest value of the matrices that have one."""
    flat = np.asarray(values).ravel()
    known = flat[~np.isnan(flat)]
    return format(known.max(), form) if known.size else "nan" if flat.size else format(flat.dtype.type(0), form)


def listed(indices: np.ndarray[Any, Any]) -> str:
    """Return the first indices of matrices, and the number of the others."""
    more = f" and {len(indices) - SHOWN} more" if len(indices) > SHOWN else ""
    return ", ".join(map(str, indices[:SHOWN])) + more


@contextmanager
def errors_named(options: argparse.Namespace, name: str) -> Iterator[None]:
    """Prefix error messages with the file and the array."""
    try:
        yield
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ValueError(f"{source(options, name)}: {error}") from error
    except MemoryError as error:
        raise MemoryError(f"{source(options, name)}: {error}") from error


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a positive integer is wanted, not {text!r}")
    return int(text)


def _degree(text: str) -> int:
    try:
        return _count(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}; 2 is for A^(-1/2), and with --pth-root for A^(1/2)") from None


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
