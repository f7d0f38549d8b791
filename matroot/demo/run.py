"""The main job on real input: digits, the layers of a network, and the month of a year of credit ratings.

1. Train a small network on optical digits, collect the Kronecker statistics of its layers, and compute their
   inverse 4th roots by every method.
2. Whiten the pixels, whose covariance is singular.
3. Take the 12th root of a yearly matrix of rating transitions.

Prints tables and writes one picture.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from matroot import Floor, PseudoInverse, use_kernels
from matroot.backends.cpu.blas import one_blas_thread
from matroot.cli.progress import Progress
from matroot.demo import network, roots
from matroot.demo.figure import draw
from matroot.demo.report import report

P = 4  # a matrix gradient is multiplied by an inverse 4th root from each of two sides
RIDGE = 1e-6
FLOOR = 1e-3
SIZES = (64, 256, 256, 10)
TRAIN = 1437  # images; the others are for the test
STEPS, EVERY = 300, 3
DTYPES = ("float64", "float32")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration; return 0, or 1 if the picture cannot be drawn because matplotlib is not installed."""
    options = _parser().parse_args(argv)
    if not options.no_figure and find_spec("matplotlib") is None:
        print(
            "matroot demo: the picture needs matplotlib (python -m pip install 'matroot[demo]'), "
            "or run with --no-figure",
            file=sys.stderr,
        )
        return 1
    use_kernels()  # what later processes take is what is to be seen
    start = time.perf_counter()
    found = explore(options.seed)
    print(report(found))
    if not options.no_figure:
        draw(options.figure, found)
        print(f"\nPicture: {options.figure}")
    print(f"{time.perf_counter() - start:.1f} seconds in all")
    return 0


def explore(seed: int) -> roots.Findings:
    """Do all the work, with a progress line; on one BLAS thread, which is fastest for such small products."""
    with one_blas_thread():
        return _explore(seed)


def _explore(seed: int) -> roots.Findings:
    rng = np.random.default_rng(seed)
    digits = network.load_digits()
    train, test = digits.split(TRAIN)
    with Progress(STEPS, "training") as progress:
        start = network.init(SIZES, rng)
        trained = network.train(start, train, steps=STEPS, every=EVERY, rng=rng, on_step=progress.step)
    before = _statistics(trained.weight_gradients)
    pairs = [(method, dtype) for dtype in DTYPES for method in roots.applicable(before, P, RIDGE, dtype)]
    rows = []
    with Progress(len(pairs) + 4, "roots") as progress:
        for row in roots.inverse_roots(before, P, RIDGE, pairs):
            rows.append(row)
            progress.step()
        others = list(roots.by_hand(before, P, RIDGE, rows[0].roots))
        progress.step()
        sides = zip(rows[0].roots[::2], rows[0].roots[1::2], trained.weight_gradients, strict=True)
        after = _statistics([L_root @ G @ R_root for L_root, R_root, G in sides])
        progress.step()
        whitenings = [roots.whiten(digits.images, rule) for rule in (PseudoInverse(), Floor(relative=FLOOR))]
        progress.step()
        month = roots.monthly_root(seed)
        progress.step()
    first, last = trained.losses[0], float(np.mean(trained.losses[-20:]))
    return roots.Findings(
        network=f"A network {'-'.join(map(str, SIZES))} on {TRAIN} digits: loss {first:.2f} to {last:.3f} in "
        f"{STEPS} steps, {network.accuracy(trained.params, test):.1%} of the other {len(test.labels)} right",
        p=P,
        ridge=RIDGE,
        images=digits.images,
        before=before,
        after=after,
        rows=rows,
        others=others,
        whitenings=whitenings,
        month=month,
    )


def _statistics(gradients: Sequence[np.ndarray[Any, Any]]) -> list[roots.Statistic]:
    return [
        roots.Statistic(layer, side, matrix)
        for layer, G in enumerate(gradients)
        for side, matrix in zip("LR", network.kronecker_statistics(G), strict=True)
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="matroot demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    figure = Path("matroot-demo.png")
    parser.add_argument("--figure", type=Path, default=figure, metavar="PNG", help=f"the picture ({figure})")
    parser.add_argument("--no-figure", action="store_true", help="no picture, and no matplotlib")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the order of the images")
    return parser
