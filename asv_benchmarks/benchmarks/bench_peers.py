"""Speedups over commonly used code; both are timed in turn, in one process, on two cores."""

import matroot

from . import peers
from .common import NOT_MEASURED, core, speedup, stack, unit


@core([128], ["float32"])
class Inverse4thRoot:
    """Stacks with B n^2 near 250 000, cond 1e4."""

    params = ([8, 32, 128, 512], ["float32", "float64"])
    param_names = ("n", "dtype")
    timeout = 300
    p = 4

    def setup(self, n, dtype):
        self.A, _ = stack(n, max(1, 250_000 // n**2), 1e4, dtype)

    def ours(self):
        return matroot.solve(self.A, self.p)

    @unit("times faster")
    def track_numpy_eigh(self, n, dtype):
        return speedup(self.ours, peers.numpy_eigh(self.A, self.p))

    @unit("times faster")
    def track_torch_eigh(self, n, dtype):
        return speedup(self.ours, peers.torch_eigh(self.A, self.p))

    @unit("times faster")
    def track_optax(self, n, dtype):
        if dtype != "float32" or n < 32:
            return NOT_MEASURED  # JAX without x64 is float32, and a loop over thousands takes minutes
        return speedup(self.ours, peers.optax_root(self.A, self.p), rounds=3)

    @unit("times faster")
    def track_scipy_power(self, n, dtype):
        if n < 32:
            return NOT_MEASURED
        return speedup(self.ours, peers.scipy_power(self.A, -1 / self.p), rounds=3)
