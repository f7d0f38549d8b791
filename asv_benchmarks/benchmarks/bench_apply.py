"""A^{-1/2} B of the Laplacian of a grid, beside SciPy's Krylov function and a decomposition of the dense matrix."""

import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg

import matroot

from .common import NOT_MEASURED, core, speedup, unit


def laplacian(m):
    """The Laplacian of a grid of m x m points; its condition number is about (2 m / pi)^2 / 2."""
    T = scipy.sparse.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(m, m))
    return scipy.sparse.kronsum(T, T).tocsr()


def peer_krylov(A, B):
    """SciPy's restarted Lanczos, column by column, to the same rtol, which it takes for the change of a restart."""

    def inverse_root(H):
        return scipy.linalg.inv(scipy.linalg.sqrtm(H))

    def run():
        krylov = scipy.sparse.linalg.funm_multiply_krylov
        return [krylov(inverse_root, A, b, assume_a="her", rtol=1e-4, restart_every_m=80) for b in B.T]

    return run


class Problem:
    """One cell: the Laplacian, the vectors, and our call."""

    params = ([30, 100, 300], [1, 8], ["auto", "lanczos", "poles"])
    param_names = ("m", "columns", "method")
    timeout = 120

    def setup(self, m, columns, method):
        self.A, self.B = laplacian(m), np.random.default_rng(0).standard_normal((m * m, columns))
        self.apply(method)

    def apply(self, method):
        return matroot.solve_apply(self.A, 2, self.B, rtol=1e-4, method=method)


@core([30, 100], [8], ["auto"])
class Grid(Problem):
    def time_apply(self, m, columns, method):
        self.apply(method)

    @unit("bound of the relative error")
    def track_error(self, m, columns, method):
        return float(self.apply(method).error.max())

    @unit("products with a vector")
    def track_products(self, m, columns, method):
        return self.apply(method).n_products


@core([30], [1], ["auto"])
class Peers(Problem):
    """The peers, which take seconds for what the small grid takes a hundredth of."""

    @unit("times faster")
    def track_scipy_krylov(self, m, columns, method):
        if not hasattr(scipy.sparse.linalg, "funm_multiply_krylov") or m > 100:
            return NOT_MEASURED
        return speedup(lambda: self.apply(method), peer_krylov(self.A, self.B), rounds=3)

    @unit("times faster")
    def track_dense(self, m, columns, method):
        if m > 30:
            return NOT_MEASURED
        dense = self.A.toarray()
        return speedup(lambda: self.apply(method), lambda: matroot.apply_inverse_pth_root(dense, 2, self.B), rounds=3)
