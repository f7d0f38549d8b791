"""Roots of large matrices, and of a few: "auto" beside numpy.linalg.eigh and recombination, in turn; medians.

On one thread of BLAS both, or on two both. What an optimizer does with its blocks is the row n = 96 to 1024, p = 4.
"""

import os
from functools import partial

import numpy as np

import matroot

from . import peers
from .bench_auto import accuracy
from .common import core, forward_error, speedup, stack, unit

SIZES = (96, 128, 192, 256, 512, 1024, 2048)


@core([512], [1], ["float64"], [1e6], [4], [1])
class Large:
    params = (list(SIZES), [1, 4], ["float32", "float64", "complex128"], [1e4, 1e6], [2, 4], [1, 2])
    param_names = ("n", "batch", "dtype", "cond", "p", "threads")
    timeout = 600

    def setup(self, n, batch, dtype, cond, p, threads):
        if batch > 1 and (n > 512 or threads > 1):
            raise NotImplementedError  # a batch has a thread for every matrix
        os.environ["MATROOT_BLAS_THREADS"] = str(threads)
        self.A, root = stack(n, batch, cond, dtype)
        self.exact = root(-1 / p)
        self.ours = partial(matroot.solve, self.A, p, **accuracy(dtype))

    def teardown(self, n, batch, dtype, cond, p, threads):
        os.environ.pop("MATROOT_BLAS_THREADS", None)

    @unit("times faster")
    def track_numpy(self, n, batch, dtype, cond, p, threads):
        theirs = peers.numpy_eigh(self.A, p)
        with matroot.one_blas_thread():
            return speedup(self.ours, theirs, rounds=5)

    @unit("times faster")
    def track_decomposition(self, n, batch, dtype, cond, p, threads):
        return speedup(self.ours, partial(matroot.solve, self.A, p, method="eigen", **accuracy(dtype)), rounds=5)

    @unit("relative")
    def track_forward_error(self, n, batch, dtype, cond, p, threads):
        return forward_error(self.ours().x, self.exact)


class Asymmetry:
    """Lone matrices that are symmetric up to rounding, as ``(Q * w) @ Q.T`` is, beside their symmetric parts."""

    params = ([8, 32, 128, 256, 512, 1024], ["float32", "float64"])
    param_names = ("n", "dtype")

    @unit("times as long")
    def track_times(self, n, dtype):
        A = stack(n, 1, 1e4, dtype)[0][0]
        A = (A + A.T) / 2
        rounded = A * (1 + np.finfo(A.dtype).eps * np.tri(n, k=-1, dtype=A.dtype))
        assert not (rounded == rounded.T).all()
        options = accuracy(dtype)
        return speedup(partial(matroot.solve, A, 4, **options), partial(matroot.solve, rounded, 4, **options), rounds=9)
