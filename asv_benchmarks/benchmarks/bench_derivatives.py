"""A whitening step forward and backward against autograd through eigh, and the callback of jax under jit."""

import matroot

from .common import CORES, core, in_turn, speedup, stack, unit

#: Relative to the largest eigenvalue.
RIDGE = 1e-6


@core([(64, 64)])
class WhiteningStep:
    """W = C^{-1/2} with a ridge of 1e-6, and the gradient of <G, W>, float32, cond 1e3."""

    params = ([(8, 64), (64, 64), (128, 16), (256, 8), (512, 4), (512, 16)],)
    param_names = ("n, batch",)
    timeout = 300

    def setup(self, size):
        import torch

        torch.set_num_threads(CORES)
        n, batch = size
        A, _ = stack(n, batch, 1e3, "float32")
        self.A = torch.from_numpy(A).requires_grad_()
        self.G = torch.randn(batch, n, n, generator=torch.Generator().manual_seed(0))

    def step(self, root):
        self.A.grad = None
        root(self.A).backward(self.G)

    def ours(self):
        self.step(lambda a: matroot.inv_sqrtm(a, regularization=RIDGE))

    def eigh(self, precision="float32"):
        import torch

        def root(a):
            w, Q = torch.linalg.eigh(a.to(getattr(torch, precision)))
            w = w + RIDGE * w[..., -1:]
            return ((Q * w.rsqrt()[..., None, :]) @ Q.mT).to(a.dtype)

        self.step(root)

    def time_step(self, size):
        self.ours()

    @unit("times faster")
    def track_torch_eigh(self, size):
        return speedup(self.ours, self.eigh, rounds=5)

    @unit("times faster")
    def track_torch_eigh_in_float64(self, size):
        return speedup(self.ours, lambda: self.eigh("float64"), rounds=5)

    @unit("times the root")
    def track_forward_and_backward(self, size):
        forward, both = in_turn(lambda: matroot.inv_sqrtm(self.A.detach(), regularization=RIDGE), self.ours)
        return both / forward


@core([(64, 1)])
class Callback:
    """A root under jit, and without it."""

    params = ([(8, 1), (64, 1), (64, 64), (256, 4)],)
    param_names = ("n, batch",)

    def setup(self, size):
        import jax

        n, batch = size
        A = jax.numpy.asarray(stack(n, batch, 1e3, "float32")[0])
        jitted = jax.jit(matroot.inv_sqrtm)
        self.functions = [lambda f=f: f(A).block_until_ready() for f in (matroot.inv_sqrtm, jitted)]

    @unit("times the eager call")
    def track_jit(self, size):
        eager, jitted = in_turn(*self.functions)
        return jitted / eager
