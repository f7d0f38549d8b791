"""RootTracker on the statistics of drifting gradients, compared with a solve by "auto" for every matrix.

``python -m benchmarks.bench_tracker``, in asv_benchmarks/, prints the tables of docs/guide/warm.rst.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from functools import partial
from statistics import median
from typing import Any

from .common import core, in_turn, unit  # pins the process first

import numpy as np  # isort: skip

import matroot
from matroot import RootTracker, gallery, one_blas_thread

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


def cold(A: Any, rtol: float | None = None) -> Any:
    """Solve without a tracker, for comparison."""
    return matroot.solve(A, 4, regularization=RIDGE, rtol=rtol)


def exact(A: Any, ridge: float) -> Any:
    """(A + ridge I)^{-1/4} in float64."""
    w, Q = np.linalg.eigh(A.astype(np.float64))
    return (Q * (w + ridge) ** -0.25) @ Q.T


def norm(A: Any) -> float:
    """2-norm of a symmetric matrix."""
    return float(abs(np.linalg.eigvalsh(A)).max())


@core([256], ["float64"])
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
        mine, theirs, _ = self.seconds()
        return theirs / mine

    @unit("times faster")
    def track_speedup_on_one_core(self, n: int, dtype: str) -> float:
        mine, theirs, _ = self.core_seconds()
        return theirs / mine

    def seconds(self, rounds: int = 7) -> list[float]:
        """Of an update, of a cold solve, and of one with the same rtol, which is in float32 for float32.

        Long samples: the solve and the update use different BLAS libraries, and the threads of the one that has just
        worked spin for a while and take the cores from the other.
        """
        found = in_turn(
            partial(self.tracker.update, self.A),
            partial(cold, self.A),
            partial(cold, self.A, 1e-3),
            rounds=rounds,
            sample=0.25,
        )
        self.check()
        return found

    def core_seconds(self, rounds: int = 9) -> list[float]:
        """The same, as processor time of one core: on a machine with other work, the steadier figure."""
        ways = (lambda: self.tracker.update(self.A)), (lambda: cold(self.A)), (lambda: cold(self.A, 1e-3))
        samples: list[list[float]] = [[], [], []]
        with one_blas_thread():
            for _ in range(rounds):
                for way, mine in zip(ways, samples, strict=True):
                    way()
                    start = time.thread_time()
                    way()
                    mine.append(time.thread_time() - start)
        self.check()
        return [median(mine) for mine in samples]

    def check(self) -> None:
        if self.tracker.counts["full"] != 1:
            raise RuntimeError(f"not the updates that were to be timed: {self.tracker.summary()}")


@core([256], [0.999])
class Drift:
    """Many updates in a row, full solves included."""

    params = ([256], [0.999, 0.95])
    param_names = ("n", "beta")
    timeout = 600

    def setup(self, n: int, beta: float) -> None:
        self.found = run(n, beta, n, 1e-4, "float32", 200)

    @unit("times faster")
    def track_speedup(self, n: int, beta: float) -> float:
        return self.found["speedup"]

    @unit("relative")
    def track_error(self, n: int, beta: float) -> float:
        return self.found["true"]


def run(
    n: int, beta: float, columns: int, angle: float, dtype: str, updates: int = 500, refine: bool = False
) -> dict[str, Any]:
    """Follow a matrix on one core; every 20th update a cold solve is timed, and the true error measured.

    The speedup is that of the whole run, by processor time.
    """
    tracker = RootTracker(4, regularization=RIDGE, refine=refine)
    mine, theirs, bound, true, orthogonality = 0.0, [], 0.0, 0.0, 0.0
    for k, A in enumerate(itertools.islice(statistics(n, beta, columns, angle, dtype), updates)):
        with one_blas_thread():
            start = time.thread_time()
            result = tracker.update(A)
            mine += time.thread_time() - start
        bound = max(bound, float(tracker.error))
        if k % 20 == 19:
            with one_blas_thread():
                start = time.thread_time()
                cold(A)
                theirs.append(time.thread_time() - start)
            X = exact(A, float(result.ridge))
            true = max(true, norm(result.x - X) / norm(X))
            orthogonality = max(orthogonality, float(tracker.orthogonality()))
    return {
        "speedup": updates * median(theirs) / mine,
        "bound": bound,
        "true": true,
        "orthogonality": orthogonality,
        "counts": tracker.counts,
    }


def main() -> None:
    """Print the tables of docs/guide/warm.rst."""
    table("n", "dtype", "one core: update, ms", "cold, ms", "ratio", "cold at rtol 1e-3, ms", "ratio", "two: ratio")
    for n, dtype in itertools.product(SIZES, DTYPES):
        one = Warm()
        one.setup(n, dtype)
        mine, theirs, rough = one.core_seconds()
        wall, cold_wall, _ = one.seconds()
        times = (f"{1e3 * mine:.2f}", f"{1e3 * theirs:.2f}", f"{theirs / mine:.1f}", f"{1e3 * rough:.2f}")
        row(n, dtype, *times, f"{rough / mine:.1f}", f"{cold_wall / wall:.1f}")
    table("n", "beta", "columns", "angle", "refine", "first order", "refined", "full", "bound", "true error", "ratio")
    streams = [
        (n, 0.999, columns, 1e-4, False) for n in SIZES for columns in (32, 128, n) if n < 1024 or columns == 128
    ]
    streams += [(256, 0.999, 128, 1e-3, False), (256, 0.999, 128, 1e-3, True)]
    streams += [(256, 0.95, 256, 1e-3, False), (256, 0.95, 256, 1e-3, True), (256, 0.999, 1, 1e-4, False)]
    for n, beta, columns, angle, refine in streams:
        found = run(n, beta, columns, angle, "float32", refine=refine)
        ways = [found["counts"][way] for way in ("first order", "refined", "full")]
        numbers = [f"{found[name]:.1e}" for name in ("bound", "true")]
        row(n, beta, columns, angle, refine, *ways, *numbers, f"{found['speedup']:.1f}")


def table(*head: str) -> None:
    print("\n.. csv-table::\n   :header-rows: 1\n\n   " + ", ".join(f'"{name}"' for name in head), flush=True)


def row(*cells: Any) -> None:
    print("   " + ", ".join(map(str, cells)), flush=True)


if __name__ == "__main__":
    main()
