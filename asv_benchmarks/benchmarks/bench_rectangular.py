"""The polar factor beside the SVDs of numpy and torch, SciPy's polar, and Muon's iteration; orthonormal bases."""

import matroot

from . import peers
from .common import core, speedup, stack, unit


@core([(512, 256)], ["float32"])
class Polar:
    """Random matrices, one or a batch; the factor U alone is timed as ``spectral_power(a, 0)``."""

    params = ([(512, 256), (256, 256), (1000, 32, 16)], ["float32", "float64"])
    param_names = ("shape", "dtype")
    timeout = 120

    def setup(self, shape, dtype):
        self.A = peers.random_matrices(shape, dtype)

    def time_polar(self, shape, dtype):
        matroot.polar(self.A)

    @unit("times faster")
    def track_numpy_svd(self, shape, dtype):
        return speedup(lambda: matroot.polar(self.A), peers.numpy_polar(self.A))

    @unit("times faster")
    def track_torch_svd(self, shape, dtype):
        return speedup(lambda: matroot.polar(self.A), peers.torch_polar(self.A))

    @unit("times faster")
    def track_scipy_polar(self, shape, dtype):
        return speedup(lambda: matroot.polar(self.A), peers.scipy_polar(self.A), rounds=3)

    @unit("times faster")
    def track_muon(self, shape, dtype):
        return speedup(lambda: matroot.spectral_power(self.A, 0), peers.muon(self.A))

    @unit("||U^H U - I||_F / sqrt(n)")
    def track_orthogonality(self, shape, dtype):
        return float(matroot.polar(self.A).orthogonality.max())


@core([256])
class Orthogonalizer:
    """Canonical orthogonalisation beside the same by numpy.linalg.eigh; the certificate is the difference."""

    params = [64, 256, 1024]
    param_names = ("n",)

    def setup(self, n):
        self.A, _ = stack(n, 1, 1e9)

    @unit("times faster")
    def track_numpy(self, n):
        return speedup(lambda: matroot.orthogonalizer(self.A, rtol=1e-7), peers.numpy_orthogonalizer(self.A, 1e-7))

    @unit("||X^H A X - I||_F / sqrt(rank)")
    def track_residual(self, n):
        return float(matroot.orthogonalizer(self.A, rtol=1e-7).residual.max())
