"""Arrays of a checkpoint whose kind the options have changed begin afresh: no step is larger than a first one."""

from __future__ import annotations

import numpy as np
import pytest

from matroot_optim import Shampoo
from optim.problems import assert_same

SHAPES = {"table": (600, 8), "matrix": (12, 10), "bias": (7,)}
RATE, STEPS = 0.01, 6
#: Options whose momentum, second moment or both are of another kind than those of the defaults.
OTHERS = {
    "no moment": {"graft": "sgd"},
    "sums of squares": {"graft": "adagrad"},
    "sums of gradients": {"momentum": "heavy_ball"},
    "means of directions": {"momentum_of": "direction"},
    "no momentum": {"momentum": "none"},
    "averages": {"averaging": "ema"},
}


def gradients(seed):
    """Gradients of few rows of the table: a row may be of the past alone."""
    rng = np.random.default_rng(seed)
    found = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    found["table"][rng.random(600) < 0.9] = 0
    return found


def trained(opt, steps=STEPS):
    rng = np.random.default_rng(0)
    params = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    state = opt.init(params)
    for seed in range(steps):
        state = opt.step(params, gradients(seed), state)
    return params, state


def largest(steps, beta1=0.9, beta2=0.999):
    """Bound the entries of Adam's first steps, by Cauchy and Schwarz: a mean over the root of a mean of squares."""
    k = np.arange(steps)
    of_means, of_squares = ((1 - b) * b**k / (1 - b**steps) for b in (beta1, beta2))
    return np.sqrt((of_means**2 / of_squares).sum())


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("back", [False, True])
def test_no_step_is_larger_than_a_first_one(tmp_path, kind, back):
    options = [OTHERS[kind], {}]
    before, after = (Shampoo(RATE, **x) for x in (options if not back else options[::-1]))
    params, state = trained(before)
    state.save(tmp_path / "state.npz")
    state = after.load(tmp_path / "state.npz", params)
    unit = RATE * largest(2 * STEPS, beta1=0.9 * (after.momentum != "none"))
    if after.graft == "sgd":  # whose step is the mean of the gradients
        unit *= max(abs(x).max() for seed in range(2 * STEPS) for x in gradients(seed).values())
    if after.momentum == "heavy_ball":
        unit /= 1 - 0.9
    for seed in range(STEPS, 2 * STEPS):
        old = {name: x.copy() for name, x in params.items()}
        state = after.step(params, gradients(seed), state)
        for name, x in params.items():  # the norm of the direction is that of the first-order step
            assert np.linalg.norm(x - old[name]) <= unit * x.size**0.5, (name, seed)


def test_steps_after_sums_of_squares_are_not_small(tmp_path):
    """Read as a mean, a sum over many steps would hold the parameters for as long as it takes to forget it."""
    before, after = (Shampoo(RATE, graft=graft, preconditioned_dims="none") for graft in ("adagrad", "adam"))
    params = {"bias": np.zeros(7)}
    state = before.init(params)
    for _ in range(200):
        state = before.step(params, {"bias": np.ones(7)}, state)
    state.save(tmp_path / "state.npz")
    state = after.load(tmp_path / "state.npz", params)
    old = params["bias"].copy()
    after.step(params, {"bias": np.ones(7)}, state)
    np.testing.assert_allclose(params["bias"], old - RATE, rtol=1e-6)


def test_averages_of_another_kind_begin_at_the_weights(tmp_path):
    params, state = trained(Shampoo(RATE, averaging="schedule_free"))
    state.save(tmp_path / "state.npz")
    opt = Shampoo(RATE, averaging="ema")
    assert_same(opt.averaged_parameters(params, opt.load(tmp_path / "state.npz", params)), params)


def test_a_group_of_torch_changes_its_graft():
    torch = pytest.importorskip("torch")
    from matroot_optim.torch import Shampoo as TorchShampoo

    params = [torch.nn.Parameter(torch.zeros(shape)) for shape in SHAPES.values()]
    opt = TorchShampoo(params, lr=RATE)
    for seed in range(3 * STEPS):
        if seed in (STEPS, 2 * STEPS):
            opt.param_groups[0]["graft"] = "sgd" if seed == STEPS else "adam"
        for p, g in zip(params, gradients(seed).values(), strict=True):
            p.grad = torch.tensor(g, dtype=p.dtype)
        old = [p.detach().clone() for p in params]
        opt.step()
        if seed >= 2 * STEPS:
            for p, x in zip(params, old, strict=True):
                assert (p - x).norm() <= RATE * largest(2 * STEPS) * p.numel() ** 0.5
