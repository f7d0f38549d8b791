"""Regularization rules beside a plain solve: 4,920 matrices of 32 x 32, p = 2, float64, on one thread.

The eigenvalues of every matrix are those of a geometric spectrum of cond 1e3, all above the cuts, or a tenth of them is
replaced by smaller ones. Wanted: 1.3 times a plain solve for rules that cut and find nothing, 3 where a tenth is cut,
1.5 for rules that shift, and never slower than numpy.
"""

import os
from functools import partial
from unittest.mock import patch

import numpy as np
from threadpoolctl import threadpool_limits

from matroot import Floor, PseudoInverse, Ridge, Shift, TargetCondition, gallery, solve

from .common import core, in_turn, unit

N, COUNT, CUT = 32, 4920, 1e-4
RULES = {
    "Ridge": Ridge(relative=CUT),
    "Shift": Shift(relative=1e-2),
    "TargetCondition": TargetCondition(100.0),
    "Floor": Floor(relative=CUT),
    "PseudoInverse": PseudoInverse(rtol=CUT),
}


def matrices(small):
    """The stack; a share `small` of each spectrum is below the cut."""
    rng = np.random.default_rng(0)
    A, _ = gallery.spd(N, 1e3, batch=(COUNT,), rng=0)
    if not small:
        return A
    w, Q = np.linalg.eigh(A)
    k = int(small * N)
    w[:, :k] = CUT * 10 ** -rng.uniform(1, 5, (COUNT, k))
    A = (Q * w[:, None]) @ Q.mT
    return (A + A.mT) / 2


def by_numpy(A, rule):
    """numpy.linalg.eigh, the rule, and recombination."""
    w, Q = np.linalg.eigh(A)
    w = rule.spectrum(w, np.ones(len(A)))[0]
    f = np.where(w > 0, np.where(w > 0, w, 1) ** -0.5, 0)
    return (Q * f[:, None]) @ Q.mT


@core(["PseudoInverse"], [0.1])
class Rules:
    """One rule beside the same call without one, and beside numpy."""

    params = (list(RULES), [0.0, 0.1])
    param_names = ("rule", "share below the cut")
    timeout = 300

    def setup(self, name, small):
        plain, A, rule = matrices(0.0), matrices(small), RULES[name]
        self.plain = partial(solve, plain, 2)
        self.ours = partial(solve, A, 2, regularization=rule)
        self.peer = partial(by_numpy, A, rule)

    def ratio(self, peer):
        """Seconds of our call over those of the other, on one thread."""
        with patch.dict(os.environ, MATROOT_NUM_THREADS="1"), threadpool_limits(1):
            ours, other = in_turn(self.ours, peer, rounds=7)
        return ours / other

    @unit("times the seconds of a plain solve")
    def track_plain(self, name, small):
        return self.ratio(self.plain)

    @unit("times the seconds of numpy.linalg.eigh and recombination")
    def track_numpy(self, name, small):
        return self.ratio(self.peer)


@core([512], ["Floor"], [0.1])
class LargeRules:
    """One large matrix under a rule that cuts, beside the same call without a rule, and beside the decomposition."""

    params = ([128, 256, 512, 1024], ["Floor", "PseudoInverse"], [0.0, 0.1, 0.5, 0.9])
    param_names = ("n", "rule", "share below the cut")
    timeout = 300

    def setup(self, n, name, small):
        _, power = gallery.spd(n, 1e4, rng=0)
        w = np.geomspace(1e-4, 1, n)
        plain = power(1)
        Q = np.linalg.eigh(plain)[1]
        w[: int(small * n)] = 0
        A = (Q * w) @ Q.T
        A, rule = (A + A.T) / 2, {"Floor": Floor(3e-5), "PseudoInverse": PseudoInverse(3e-5)}[name]
        self.plain = partial(solve, plain, 2)
        self.ours = partial(solve, A, 2, regularization=rule)
        self.peer = partial(solve, A, 2, regularization=rule, method="eigen")

    @unit("times the seconds of a plain solve")
    def track_plain(self, n, name, small):
        ours, other = in_turn(self.ours, self.plain, rounds=5)
        return ours / other

    @unit("times the seconds of a decomposition")
    def track_decomposition(self, n, name, small):
        ours, other = in_turn(self.ours, self.peer, rounds=5)
        return ours / other
