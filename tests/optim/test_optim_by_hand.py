"""Steps that are computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from matroot_optim import Shampoo, apply_updates
from optim.test_optim_oracle import BASE, run

# By hand: direction 1 at every step (graft "sgd", gradient 1 on a scalar), momentum 0.9, rate 1.
THREE_STEPS = {
    ("heavy_ball", True): [1.0, 1.9, 2.71],
    ("nesterov", True): [1.9, 2.71, 3.439],
    ("ema", True): [1.0, 1.0, 1.0],
    ("ema", False): [0.1, 0.19, 0.271],
    ("none", True): [1.0, 1.0, 1.0],
}


@pytest.mark.parametrize(("momentum", "correct"), THREE_STEPS)
@pytest.mark.parametrize("in_place", [False, True])
def test_three_steps_of_momentum(momentum, correct, in_place):
    opt = Shampoo(1.0, graft="sgd", momentum=momentum, bias_correction=correct, betas=(0.9, 0.999))
    W, g = np.zeros(2), np.ones(2)
    state = opt.init(W)
    for want in THREE_STEPS[momentum, correct]:
        if in_place:
            before = W.copy()
            state = opt.step(W, g, state)
            u = W - before
        else:
            u, state = opt.update(g, state, W)
        np.testing.assert_allclose(u, -want, rtol=1e-12)
        np.testing.assert_array_equal(g, 1.0)


def test_nesterov_buffer_is_not_the_step():
    opt = Shampoo(1.0, graft="sgd", momentum="nesterov")
    state = opt.init(np.zeros(1))
    for want in (1.0, 1.9, 2.71):
        _, state = opt.update(np.ones(1), state)
        np.testing.assert_allclose(state["momentum"], want, rtol=1e-12)


# By hand: W = 1, gradient 1, rate 0.5, wd 0.1, no momentum: three weights each.
DECAYS = {
    "l2": [1 - 0.5 * 1.1, 0.45 - 0.5 * (1 + 0.045), -0.0725 - 0.5 * (1 - 0.00725)],
    "decoupled": [1 - 0.5 * 1.1, 0.45 - 0.5 * 1.045, -0.0725 - 0.5 * (1 - 0.00725)],
    "independent": [1 - 0.5 - 0.1, 0.4 - 0.5 - 0.04, -0.14 - 0.5 + 0.014],
}


@pytest.mark.parametrize("decay", DECAYS)
def test_three_steps_of_decay(decay):
    opt = Shampoo(0.5, graft="sgd", momentum="none", weight_decay=0.1, decay=decay)
    W = np.ones(1)
    state = opt.init(W)
    for want in DECAYS[decay]:
        u, state = opt.update(np.ones(1), state, W)
        W = apply_updates(W, u)
        np.testing.assert_allclose(W, want, rtol=1e-12)


def test_l2_and_decoupled_differ_under_adam():
    runs = [run(Shampoo(**BASE, weight_decay=0.1, decay=d), [(3, 3)])[0][0] for d in ("l2", "decoupled")]
    assert abs(runs[0] - runs[1]).max() > 1e-3
