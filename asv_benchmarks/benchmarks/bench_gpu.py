"""GPU benchmarks, timed by CUDA events: rates, ratios to peers, accuracy, memory. Skipped without a GPU.

``gpu_report.py`` prints the same figures as one table.
"""

from fractions import Fraction
from functools import partial
from statistics import median

import numpy as np

from matroot import solve
from matroot.cli.tune_gpu import milliseconds

from .common import NOT_MEASURED, core, stack, unit

ROUNDS = 7


def card():
    """cupy, where it sees a card; asv skips the others."""
    try:
        import cupy
    except ImportError:
        raise NotImplementedError("cupy is not installed") from None
    if not cupy.is_available():
        raise NotImplementedError("cupy sees no CUDA device")
    return cupy


def on_card(cupy, n, batch, cond, dtype):
    """A stack on the card, few matrices repeated, and the exact powers of the first."""
    A, root = stack(n, min(batch, 4), cond, dtype)
    return cupy.tile(cupy.asarray(A), (batch // len(A), 1, 1)), root


def in_turn(cupy, *sides):
    """Median milliseconds of each side, taken in turn after a warm-up."""
    times = [[milliseconds(cupy, side) for side in sides] for _ in range(ROUNDS + 1)][1:]
    return [median(column) for column in zip(*times, strict=True)]


def eigh(xp, A, p):
    """The library's eigh and recombination; cupy takes a stack of large matrices one by one."""
    if A.ndim == 3 and A.shape[-1] > 64 and xp.__name__ == "cupy":
        return [eigh(xp, a, p) for a in A]
    w, Q = xp.linalg.eigh(A)
    return (Q * w[..., None, :] ** (-1 / p)) @ Q.swapaxes(-1, -2)


@core([(4096, 64)], ["float32"])
class Card:
    """Shapes of layers and of small matrices, as in the report."""

    params = ([(4096, 16), (4096, 64), (256, 256), (64, 1024)], ["float32", "float64"])
    param_names = ("batch, n", "dtype")
    timeout = 300

    def setup(self, shape, dtype):
        self.cupy = card()
        batch, n = shape
        self.A, self.root = on_card(self.cupy, n, batch, 1e4, dtype)
        self.ours = partial(solve, self.A, 4, regularization=1e-6)

    @unit("ms")
    def track_time(self, shape, dtype):
        return in_turn(self.cupy, self.ours)[0]

    @unit("times faster")
    def track_cupy_eigh(self, shape, dtype):
        ours, theirs = in_turn(self.cupy, self.ours, partial(eigh, self.cupy, self.A, 4))
        return theirs / ours

    @unit("times faster")
    def track_torch_eigh(self, shape, dtype):
        import torch

        if not torch.cuda.is_available():
            return NOT_MEASURED
        ours, theirs = in_turn(self.cupy, self.ours, partial(eigh, torch, torch.from_dlpack(self.A), 4))
        return theirs / ours

    @unit("% of the time")
    def track_products(self, shape, dtype):
        A = self.A if dtype == "float64" else self.A.astype(self.ours().compute_dtype)
        out = self.cupy.empty_like(A)
        ours, product = in_turn(self.cupy, self.ours, lambda: self.cupy.matmul(A, A, out=out))
        return 100 * self.ours().n_products * product / ours

    @unit("relative")
    def track_forward_error(self, shape, dtype):
        exact = self.root(Fraction(-1, 4))[0]
        X = solve(self.A[:4], 4).x[0].get()
        return float(np.linalg.norm(X - exact) / np.linalg.norm(exact))

    @unit("bytes")
    def track_new_memory(self, shape, dtype):
        pool = self.cupy.get_default_memory_pool()
        self.ours(), self.ours()
        before = pool.total_bytes()
        self.ours()
        return pool.total_bytes() - before
