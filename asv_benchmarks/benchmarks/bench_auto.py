"""Fast inverse roots on two cores: float32 to rtol 1e-3, float64 in full, B n^2 = 10^6, p = 4.

The peers are numpy.linalg.eigh (N) and torch.linalg.eigh on two threads (T), both with recombination and on the
same stack, and optax.matrix_inverse_pth_root (jitted). matroot and the peer are timed in turn in one process;
results are medians.
"""

from functools import partial

import matroot

from . import peers
from .common import METHODS, applies, core, forward_error, in_turn, speedup, stack, unit

SIZES = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
DTYPES = ("float32", "float64")
NUMBERS = 1_000_000


def accuracy(dtype):
    """The accuracy that is asked for: a few digits in float32, all of them in float64."""
    return {"rtol": 1e-3} if dtype == "float32" else {}


def cell(n, dtype, cond, p=4, numbers=NUMBERS):
    """The stack of one cell of the table, its exact root, and our call."""
    A, root = stack(n, max(1, numbers // n**2), cond, dtype)
    return A, root(-1 / p), partial(matroot.solve, A, p, **accuracy(dtype))


@core([32, 256], ["float64"], [1e6])
class Fast:
    """ "auto" against both peers."""

    params = (list(SIZES), list(DTYPES), [1e4, 1e6])
    param_names = ("n", "dtype", "cond")
    timeout = 300

    def setup(self, n, dtype, cond):
        self.A, self.exact, self.ours = cell(n, dtype, cond)

    @unit("times faster")
    def track_numpy(self, n, dtype, cond):
        return speedup(self.ours, peers.numpy_eigh(self.A, 4), rounds=5)

    @unit("times faster")
    def track_torch(self, n, dtype, cond):
        return speedup(self.ours, peers.torch_eigh(self.A, 4), rounds=5)

    @unit("relative")
    def track_forward_error(self, n, dtype, cond):
        return forward_error(self.ours().x, self.exact)


@core([4])
class Lone:
    """One small matrix beside numpy.linalg.eigh and recombination; wanted at most 2 times as long up to n = 8."""

    params = [2, 4, 8, 16, 32]
    param_names = ("n",)
    timeout = 300

    def setup(self, n):
        A, _ = stack(n, 1, 1e4, "float64")
        self.A = A[0]

    @unit("times the seconds of numpy.linalg.eigh and recombination")
    def track_numpy(self, n):
        return 1 / speedup(partial(matroot.solve, self.A, 2), peers.numpy_eigh(self.A, 2), rounds=25)


@core([128])
class Optax:
    """Against optax in float32 at full accuracy; wanted at least 10."""

    params = [64, 128, 256, 512]
    param_names = ("n",)
    timeout = 300

    def setup(self, n):
        self.A, _, self.ours = cell(n, "float32", 1e4, numbers=262_144)

    @unit("times faster")
    def track_speedup(self, n):
        return speedup(self.ours, peers.optax_root(self.A, 4), rounds=3)


@core([128], ["8"], [4], ["float64"], [1e6])
class AutoChoice:
    """ "auto" beside the fastest method of each cell, and beside numpy.linalg.eigh; wanted: at most 1.1 times both."""

    params = (list(SIZES), ["1", "8", "many"], [1, 2, 3, 4, 8], list(DTYPES), [1e2, 1e4, 1e6, 1e10])
    param_names = ("n", "batch", "p", "dtype", "cond")
    timeout = 300

    def setup(self, n, batch, p, dtype, cond):
        count = batch_size(n, batch)
        if count is None:
            raise NotImplementedError
        self.A, _ = stack(n, count, cond, dtype)

    @unit("times the seconds of the fastest method")
    def track_regret(self, n, batch, p, dtype, cond):
        return regret(self.A, p, dtype)[0]

    @unit("times the seconds of numpy.linalg.eigh and recombination")
    def track_numpy(self, n, batch, p, dtype, cond):
        ours = partial(matroot.solve, self.A, p, **accuracy(dtype))
        return 1 / speedup(ours, peers.numpy_eigh(self.A, p), rounds=5)


def batch_size(n, batch):
    """Matrices in a cell of the grid; None where "many" would be no more than eight."""
    count = max(1, NUMBERS // n**2) if batch == "many" else int(batch)
    return None if batch == "many" and count <= 8 else count


def regret(A, p, dtype, rounds=3):
    """Seconds of auto over those of the fastest method that does as well, and which that is.

    As well: no matrix has a worse status. Methods that take twice as long in one sample are not timed further. A sample
    of one short call would be too long: it comes after a rest.
    """
    calls = {"auto": partial(matroot.solve, A, p, **accuracy(dtype))}
    wanted, limit = calls["auto"]().status, 2 * in_turn(calls["auto"], rounds=1)[0]
    for method in METHODS:
        if applies(method, p):
            call = partial(matroot.solve, A, p, method=method, **accuracy(dtype))
            if bool((call().status <= wanted).all()) and in_turn(call, rounds=1, sample=0.002)[0] <= limit:
                calls[method] = call
    seconds = dict(zip(calls, in_turn(*calls.values(), rounds=rounds), strict=True))
    best = min((m for m in seconds if m != "auto"), key=seconds.__getitem__, default="auto")
    return seconds["auto"] / seconds[best], best
