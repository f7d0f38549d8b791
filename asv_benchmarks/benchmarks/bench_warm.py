"""RootTracker on the statistics of drifting gradients, beside a solve by "auto" each time.

``python -m benchmarks.bench_warm``, in asv_benchmarks/, prints the tables of docs/warm.rst.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from functools import partial
from statistics import median
from typing import Any

from .common import in_turn, unit  # pins the process first

import numpy as np  # isort: skip

import matroot
from matroot import RootTracker, gallery

SIZES = (256, 512, 1024)
DTYPES = ("float32", "float64")
RIDGE = 1e-6


def statistics(n: int, beta: float, columns: int, angle: float, dtype: str = "float64") -> Iterator[Any]:
    """A <- beta A + (1 - beta) G G^T / columns, where G G^T is on average U_t L U_t^T.

    L is geometric with condition number 1e6, and U_t turns by up to `angle` radians an update.
    """
    rng = np.random.default_rng(n)
    deviation = gallery.eigenvalues(n, 1e6) ** 0.5
    U = gallery.orthogonal(n, rng=rng)
    S = rng.standard_normal((n, n))
    S = (S - S.T) / (8 * n) ** 0.5
    turn = np.linalg.solve(np.eye(n) - angle / 2 * S, np.eye(n) + angle / 2 * S)
    A = (U * deviation**2) @ U.T
    while True:
        U = U @ turn
        G = (U * deviation) @ rng.standard_normal((n, columns))
        A = beta * A + (1 - beta) / columns * (G @ G.T)
        yield A.astype(dtype)


def cold(A: Any) -> Any:
    """What the tracker is compared with."""
    return matroot.solve(A, 4, regularization=RIDGE)


def exact(A: Any, ridge: float) -> Any:
    """(A + ridge I)^{-1/4} in float64."""
    w, Q = np.linalg.eigh(A.astype(np.float64))
    return (Q * (w + ridge) ** -0.25) @ Q.T


class Warm:
    """One first-order update; wanted at least 3 times as fast as a cold solve."""

    params = (list(SIZES), list(DTYPES))
    param_names = ("n", "dtype")
    timeout = 300

    def setup(self, n: int, dtype: str) -> None:
        A = statistics(n, 0.999, n, 1e-3, dtype)
        self.tracker = RootTracker(4, regularization=RIDGE)
        self.tracker.update(next(A))
        self.A = next(A)

    @unit("times faster")
    def track_speedup(self, n: int, dtype: str) -> float:
        mine, theirs = self.seconds()
        return theirs / mine

    def seconds(self, rounds: int = 5) -> list[float]:
        """Of an update, and of a cold solve.

        Long samples: the solve and the update use different BLAS libraries, and the threads of the one that has just
        worked spin for a while and take the cores from the other.
        """
        found = in_turn(partial(self.tracker.update, self.A), partial(cold, self.A), rounds=rounds, sample=0.5)
        if self.tracker.counts["full"] != 1:
            raise RuntimeError(f"not the updates that were to be timed: {self.tracker.summary()}")
        return found


class Drift:
    """Many updates in a row, full solves included."""

    params = ([256], [0.999, 0.95])
    param_names = ("n", "beta")
    timeout = 600

    def setup(self, n: int, beta: float) -> None:
        self.found = run(n, beta, n, 1e-3, "float32", 200)

    @unit("times faster")
    def track_speedup(self, n: int, beta: float) -> float:
        return self.found["speedup"]

    @unit("relative")
    def track_error(self, n: int, beta: float) -> float:
        return self.found["true"]


def run(
    n: int, beta: float, columns: int, angle: float, dtype: str, updates: int = 500, refine: bool = False
) -> dict[str, Any]:
    """Follow a matrix; every tenth update a cold solve is timed, and the true error measured.

    The speedup is that of the whole run, every way of an update taken at its median.
    """
    tracker = RootTracker(4, regularization=RIDGE, refine=refine)
    mine: dict[str, list[float]] = {}
    theirs, bound, true, orthogonality = [], 0.0, 0.0, 0.0
    for k, A in enumerate(itertools.islice(statistics(n, beta, columns, angle, dtype), updates)):
        start = time.perf_counter()
        result = tracker.update(A)
        mine.setdefault(str(tracker.way), []).append(time.perf_counter() - start)
        bound = max(bound, float(tracker.error))
        if k % 10 == 9:
            start = time.perf_counter()
            cold(A)
            theirs.append(time.perf_counter() - start)
            X = exact(A, float(result.ridge))
            true = max(true, float(np.linalg.norm(result.x - X, 2) / np.linalg.norm(X, 2)))
            orthogonality = max(orthogonality, float(tracker.orthogonality()))
    seconds = sum(len(times) * median(times) for times in mine.values())
    return {
        "speedup": updates * median(theirs) / seconds,
        "bound": bound,
        "true": true,
        "orthogonality": orthogonality,
        "counts": tracker.counts,
    }


def main() -> None:
    """Print the tables of docs/warm.rst."""
    print('.. csv-table::\n   :header-rows: 1\n\n   "n", "dtype", "first-order update, ms", "cold solve, ms", "ratio"')
    for n, dtype in itertools.product(SIZES, DTYPES):
        one = Warm()
        one.setup(n, dtype)
        mine, theirs = one.seconds()
        print(f"   {n}, {dtype}, {1e3 * mine:.2f}, {1e3 * theirs:.2f}, {theirs / mine:.1f}", flush=True)
    head = "n, beta, columns of G, angle, refine, first order, refined, full, bound, true error, orthonormality, ratio"
    print("\n.. csv-table::\n   :header-rows: 1\n\n   " + ", ".join(f'"{name}"' for name in head.split(", ")))
    streams = [(n, 0.999, n, angle, False) for n in SIZES for angle in (1e-4, 1e-3)]
    streams += [(256, 0.999, 256, 1e-3, True), (256, 0.95, 256, 1e-3, False), (256, 0.95, 256, 1e-3, True)]
    streams += [(256, 0.999, 1, 1e-4, False)]
    for n, beta, columns, angle, refine in streams:
        found = run(n, beta, columns, angle, "float32", refine=refine)
        ways = [found["counts"][way] for way in ("first order", "refined", "full")]
        numbers = [f"{found[name]:.0e}" for name in ("bound", "true", "orthogonality")]
        row = (n, beta, columns, angle, refine, *ways, *numbers, f"{found['speedup']:.1f}")
        print("   " + ", ".join(map(str, row)), flush=True)


if __name__ == "__main__":
    main()
