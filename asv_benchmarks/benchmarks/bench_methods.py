"""Every method over size, batch, precision and condition: time, peak memory, residual, error, products."""

import matroot

from .common import METHODS, applies, core, forward_error, stack, unit

P = 4


class Grid:
    """The matrices of one cell of the grid; a method that does not serve the cell skips it."""

    params = (METHODS, [16, 64, 256], [1, 64], ["float32", "float64"], [1e2, 1e6])
    param_names = ("method", "n", "batch", "dtype", "cond")
    timeout = 120

    def setup(self, method, n, batch, dtype, cond):
        if not applies(method, P) or n * n * batch > 2_000_000:
            raise NotImplementedError
        self.A, self.root = stack(n, batch, cond, dtype)
        self.solve(method)

    def solve(self, method):
        return matroot.solve(self.A, P, method=method)


@core(["eigen", "minimax", "tridiagonal"], [64], [64], ["float64"], [1e6])
class Time(Grid):
    def time_solve(self, method, n, batch, dtype, cond):
        self.solve(method)

    def peakmem_solve(self, method, n, batch, dtype, cond):
        self.solve(method)


@core(["eigen", "minimax", "tridiagonal"], [64], [64], ["float64"], [1e6])
class Quality(Grid):
    @unit("||X^p A - I||_F / sqrt(n)")
    def track_residual(self, method, n, batch, dtype, cond):
        return float(self.solve(method).residual.max())

    @unit("relative")
    def track_forward_error(self, method, n, batch, dtype, cond):
        return forward_error(self.solve(method).x, self.root(-1 / P))

    @unit("n x n products")
    def track_products(self, method, n, batch, dtype, cond):
        return self.solve(method).n_products


@core([32], [3], ["float64"])
class Auto:
    """ "auto" beside the methods it chooses from."""

    params = ([8, 32, 128, 512], [2, 3, 8], ["float32", "float64"])
    param_names = ("n", "p", "dtype")

    def setup(self, n, p, dtype):
        self.A, _ = stack(n, max(1, 500_000 // n**2), 1e4, dtype)
        matroot.inverse_pth_root(self.A, p)

    def time_auto(self, n, p, dtype):
        matroot.solve(self.A, p)
