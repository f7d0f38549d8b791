"""Costs of a solve: products, overheads, certificate, memory, import; singular matrices, other exponents, halves."""

import subprocess
import sys
import tracemalloc
from functools import partial

import numpy as np

import matroot

from . import peers
from .common import METHODS, core, in_turn, speedup, stack, unit


@core([4], [1e6])
class Counts:
    """Iterations and products of coupled Newton: float64, n = 128, geometric spectrum."""

    params = ([2, 4, 8], [1e2, 1e4, 1e6, 1e8, 1e10])
    param_names = ("p", "cond")

    def setup(self, p, cond):
        self.A, _ = stack(128, 1, cond)

    @unit("iterations")
    def track_iterations(self, p, cond):
        return int(matroot.solve(self.A, p, method="coupled_newton").n_iter.max())

    @unit("products")
    def track_products(self, p, cond):
        return matroot.solve(self.A, p, method="coupled_newton").n_products


@core([128], ["float64"])
class EigenOverhead:
    """A solve by eigen beside bare numpy.linalg.eigh and recombination; wanted at most 1.15."""

    params = ([128, 512, 1024], ["float32", "float64"])
    param_names = ("n", "dtype")

    def setup(self, n, dtype):
        self.A, _ = stack(n, 1, 1e4, dtype)

    @unit("times the seconds of eigh and recombination")
    def track_overhead(self, n, dtype):
        peer = peers.numpy_eigh(self.A, 4)
        return 1 / speedup(lambda: matroot.solve(self.A, 4, method="eigen"), peer)


@core([512])
class Certificate:
    """The certificate's share of a solve by eigen; wanted at most 5 %."""

    params = [64, 128, 512, 1024]
    param_names = ("n",)

    def setup(self, n):
        self.A, _ = stack(n, 1, 1e4)

    @unit("share of the solve")
    def track_share(self, n):
        from fractions import Fraction

        from matroot.backends.cpu.cpu import CPU
        from matroot.methods.conditioning import residual

        X, backend = matroot.solve(self.A, 4, method="eigen").x, CPU()
        solve, certify = in_turn(
            lambda: matroot.solve(self.A, 4, method="eigen"),
            lambda: residual(self.A, X, Fraction(-1, 4), backend),
        )
        return certify / solve


@core([16], [500], ["float64"])
class Semidefinite:
    """Fourth roots of covariances of half as many samples as features, beside numpy's decomposition."""

    params = ([4, 16, 32, 64, 128, 256, 512], [1, 16, 500], ["float64", "float32"])
    param_names = ("n", "batch", "dtype")
    timeout = 300

    def setup(self, n, batch, dtype):
        if n * n * batch > 1 << 19:
            raise NotImplementedError("too much for a benchmark")
        X = np.random.default_rng(n).standard_normal((batch, n, n // 2))
        A = (X @ X.mT / n).astype(dtype)
        self.A = A[0] if batch == 1 else A

    def by_numpy(self):
        w, Q = np.linalg.eigh(self.A)
        return (Q * np.maximum(w, 0)[..., None, :] ** 0.25) @ Q.mT

    @unit("times faster")
    def track_speedup(self, n, batch, dtype):
        return speedup(lambda: matroot.solve(self.A, 4, inverse=False), self.by_numpy, rounds=5)


class _Exponents:
    """Solves for some exponents, beside the inverse square root, and beside numpy's decomposition."""

    param_names = ("n", "batch", "s")

    def setup(self, n, batch, s):
        if n * n * batch > 1 << 19:
            raise NotImplementedError("too much for a benchmark")
        A = stack(n, batch, 1e4)[0]
        self.A = A[0] if batch == 1 else A

    def by_numpy(self, s):
        w, Q = np.linalg.eigh(self.A)
        return (Q * w[..., None, :] ** s) @ Q.mT

    @unit("times as long as the inverse square root")
    def track_times(self, n, batch, s):
        return speedup(lambda: matroot.solve(self.A, 2), lambda: matroot.solve(self.A, s=s), rounds=5)

    @unit("times faster than numpy")
    def track_speedup(self, n, batch, s):
        return speedup(lambda: matroot.solve(self.A, s=s), lambda: self.by_numpy(s), rounds=5)


@core([16], [500], [-2 / 3])
class NegativeFractions(_Exponents):
    """Exponents whose certificate compares with inverse powers."""

    params = ([4, 16, 64, 256, 512], [1, 16, 500], [-2 / 3, -0.7])


@core([16], [500], [2])
class PowersAboveOne(_Exponents):
    """Whole powers and others above 1."""

    params = ([4, 16, 64, 256, 512], [1, 16, 500], [2, 3, 5 / 2])


@core([64], [16])
class ComplexBatches:
    """Inverse square roots of complex Hermitian matrices beside numpy's decomposition."""

    params = ([16, 32, 48, 64, 96], [8, 16, 64])
    param_names = ("n", "batch")

    def setup(self, n, batch):
        A = stack(n, batch, 1e4)[0]
        phases = np.exp(1j * np.random.default_rng(n).uniform(0, 6, (batch, n)))
        self.A = phases[:, :, None] * A * phases.conj()[:, None]

    def by_numpy(self):
        w, Q = np.linalg.eigh(self.A)
        return (Q * w[..., None, :] ** -0.5) @ Q.conj().mT

    @unit("times faster")
    def track_speedup(self, n, batch):
        return speedup(lambda: matroot.solve(self.A, 2), self.by_numpy, rounds=5)


@core([16], [500])
class Zeros:
    """Square roots of zero matrices beside those of others."""

    params = ([4, 16, 64], [1, 16, 500])
    param_names = ("n", "batch")

    def setup(self, n, batch):
        if n * n * batch > 1 << 19:
            raise NotImplementedError("too much for a benchmark")
        A = stack(n, batch, 1e4)[0]
        self.A = A[0] if batch == 1 else A

    @unit("times as long")
    def track_times(self, n, batch):
        zero = 0 * self.A
        roots = (partial(matroot.solve, A, 2, inverse=False) for A in (self.A, zero))
        return speedup(*roots, rounds=5)


@core([16], [500], [0.01])
class Halves:
    """float16 matrices beside the same ones in float32; the arithmetic is float64 in both."""

    params = ([4, 16, 64, 256], [1, 16, 500], [None, 0.01])
    param_names = ("n", "batch", "ridge")

    def setup(self, n, batch, ridge):
        if n * n * batch > 1 << 19:
            raise NotImplementedError("too much for a benchmark")
        A, self.ridge = stack(n, batch, 30.0, "float16")[0], ridge
        self.A = A[0] if batch == 1 else A

    @unit("times as long")
    def track_times(self, n, batch, ridge):
        calls = (partial(matroot.solve, A, 4, regularization=ridge) for A in (self.A.astype("float32"), self.A))
        return speedup(*calls, rounds=5)


@core(["coupled_newton", "minimax"], [32])
class Batch:
    """One call on a batch beside a Python loop of calls."""

    params = (METHODS, [8, 32, 64, 128])
    param_names = ("method", "n")

    def setup(self, method, n):
        self.A, _ = stack(n, max(16, 100_000 // n**2), 1e4)

    @unit("times faster than a loop")
    def track_speedup(self, method, n):
        def loop():
            for a in self.A:
                matroot.solve(a, 4, method=method)

        return speedup(lambda: matroot.solve(self.A, 4, method=method), loop, rounds=3)


@core(["minimax", "tridiagonal"], [256])
class WorkMemory:
    """Most memory held during a solve beyond the output, in n^2 numbers; wanted at most 6 per worker.

    As tracemalloc sees it: numpy's arrays are counted, LAPACK's and BLAS's own buffers are not.
    """

    params = (METHODS, [256, 512])
    param_names = ("method", "n")

    def setup(self, method, n):
        self.A, _ = stack(n, 1, 1e4)
        matroot.solve(self.A, 4, method=method)

    @unit("n^2 numbers")
    def track_work(self, method, n):
        tracemalloc.start()
        try:
            result = matroot.solve(self.A, 4, method=method)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        output = result.x.nbytes + (0 if result.companion is None else result.companion.nbytes)
        return (peak - output) / (8 * n * n)


class Import:
    """``import matroot`` and the modules of `solve` in a fresh process; wanted under 0.16 s."""

    @unit("s")
    def track_seconds(self):
        code = "import time; t = time.perf_counter(); import matroot; matroot.solve; print(time.perf_counter() - t)"
        runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, check=True) for _ in range(7)]
        return float(np.median([float(run.stdout) for run in runs]))
