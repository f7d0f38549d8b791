"""General matrices by the Schur-Newton method, beside SciPy's functions."""

import numpy as np
import scipy.linalg
from threadpoolctl import threadpool_limits

import matroot
from matroot import gallery

from . import peers
from .common import core, forward_error, in_turn, speedup, unit


@core([300], [12])
class General:
    """schur_newton beside scipy.linalg.fractional_matrix_power on real general matrices."""

    params = ([100, 300, 500], [3, 5, 12])
    param_names = ("n", "p")
    timeout = 300

    def setup(self, n, p):
        self.A, self.root = gallery.general(n, 100.0, rng=n)

    def ours(self, p):
        return matroot.solve(self.A, p, inverse=False, assume_a="gen", method="schur_newton")

    @unit("times faster")
    def track_speedup(self, n, p):
        peer = peers.scipy_power(self.A[None], 1 / p)
        return speedup(lambda: self.ours(p), peer, rounds=3)

    @unit("our forward error / SciPy's")
    def track_error_ratio(self, n, p):
        exact = self.root(1 / p)
        theirs = peers.scipy_power(self.A[None], 1 / p)()[0]
        return forward_error(self.ours(p).x, exact) / forward_error(theirs, exact.astype(theirs.dtype))

    @unit("seconds outside the Schur form / seconds of the Schur form")
    def track_outside_schur(self, n, p):
        # both with BLAS at one thread, or its choice of threads would be compared
        with threadpool_limits(1, "blas"):
            schur, solve = in_turn(lambda: scipy.linalg.schur(self.A), lambda: self.ours(p), rounds=3)
        return (solve - schur) / schur


@core([8], [1], [12])
class SmallGeneral:
    """Small general matrices, alone and in a batch, beside a loop over SciPy's function; most of it is Python."""

    params = ([4, 8, 16, 32], [1, 100], [2, 12])
    param_names = ("n", "batch", "p")

    def setup(self, n, batch, p):
        self.A = gallery.general(n, 100.0, batch=(batch,), rng=n)[0]

    def ours(self, p):
        return matroot.solve(self.A, p, inverse=False, assume_a="gen")

    @unit("times faster")
    def track_speedup(self, n, batch, p):
        return speedup(lambda: self.ours(p), peers.scipy_power(self.A, 1 / p), rounds=3)


@core([50])
class SingularGeneral:
    """Square roots of products of two covariances of few samples, beside SciPy's."""

    params = [50, 200]
    param_names = ("n",)
    timeout = 300

    def setup(self, n):
        X, Y = np.random.default_rng(n).standard_normal((2, n, n // 4))
        self.A = (X @ X.T) @ (Y @ Y.T)

    def ours(self):
        return matroot.solve(self.A, 2, inverse=False, assume_a="gen")

    @unit("times faster")
    def track_speedup(self, n):
        return speedup(self.ours, peers.scipy_power(self.A[None], 1 / 2), rounds=3)

    @unit("||X^2 - A||_F / ||A||_F")
    def track_residual(self, n):
        return float(self.ours().residual)
