"""A parameter without a root gets the first-order method itself, and gradients of any size the usual step."""

from __future__ import annotations

import numpy as np
import pytest

from matroot_optim import Shampoo, apply_updates
from matroot_optim.step.scaling import HIGH, LOW

torch = pytest.importorskip("torch")

SHAPES = [(7,), (64, 3), (1, 9), ()]  # vectors, a narrow table, a scalar


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_it_is_adamw_to_rounding(decay):
    """Of gradients of order one: AdamW's epsilon is absolute, and here below the rounding of float64."""
    rng = np.random.default_rng(0)
    start = [rng.standard_normal(shape) for shape in SHAPES]
    weights = [torch.nn.Parameter(torch.tensor(x)) for x in start]
    adamw = torch.optim.AdamW(weights, 0.03, betas=(0.9, 0.99), eps=1e-30, weight_decay=decay)
    opt = Shampoo(0.03, betas=(0.9, 0.99), weight_decay=decay, graft_epsilon=0.0)
    params = [x.copy() for x in start]
    state = opt.init(params)
    for _ in range(60):
        grads = [rng.standard_normal(shape) for shape in SHAPES]
        for w, g in zip(weights, grads, strict=True):
            w.grad = torch.tensor(g)
        adamw.step()
        updates, state = opt.update(grads, state, params)
        params = apply_updates(params, updates)
    for got, want in zip(params, weights, strict=True):
        np.testing.assert_allclose(got, want.detach().numpy(), rtol=1e-13, atol=1e-14)


SIZES = [1e-42, 1e-38, 2e-21, 1e-15, 1.0, 1e15, 2e21, 1e37]


@pytest.mark.parametrize("graft", ["adam", "rmsprop", "adagrad", "sqrt_n", "trust_ratio"])
@pytest.mark.parametrize("size", SIZES)
def test_no_finite_gradient_makes_a_larger_step(graft, size):
    """The steps of a gradient of any size are those of one of order one, in float32."""

    def train(scale):
        rng = np.random.default_rng(0)
        params = {"w": np.ones((6, 9), np.float32), "b": np.ones(5, np.float32)}
        opt = Shampoo(1e-2, graft=graft, start_step=2)
        state, moves = opt.init(params), []
        for _ in range(15):
            g = {k: (rng.standard_normal(x.shape) * scale).astype(np.float32) for k, x in params.items()}
            updates, state = opt.update(g, state, params)
            moves.append(updates)
        return moves, state

    moves, state = train(size)
    usual, _ = train(1.0)
    assert not any(int(state[f"{k}/skipped"]) for k in "wb")
    precision = max(1e-4, 1e-44 / size)  # of the gradients themselves: subnormal numbers have few digits
    for move, want in zip(moves, usual, strict=True):
        for k in "wb":
            np.testing.assert_allclose(move[k], want[k], atol=precision * np.abs(want[k]).max(), rtol=0)


@pytest.mark.parametrize("second", [5e-22, 1e-25, 1e-30, 1e-40])
def test_entries_that_underflow_make_no_step(second):
    """Where the square of an entry is no float32, its step is at most the usual one."""
    opt, params = Shampoo(1e-3), {"b": np.zeros(2, np.float32)}
    state = opt.init(params)
    for _ in range(20):
        updates, state = opt.update({"b": np.array([2e-21, second], np.float32)}, state, params)
        assert np.abs(updates["b"]).max() <= 1.001e-3


@pytest.mark.parametrize("spike", [1e3, 1e12, 1e25, 3e38])
def test_a_spike_makes_a_bounded_step(spike):
    """After usual gradients one that is much larger: (1 - b1) / (1 - b2)^(1/2) is the most that Adam's step can be."""
    rng, params = np.random.default_rng(0), {"w": np.zeros((4, 6), np.float32), "b": np.zeros(3, np.float32)}
    opt = Shampoo(1.0)
    state = opt.init(params)
    for t in range(40):
        scale = spike if t == 20 else 1.0
        g = {
            k: np.clip(rng.standard_normal(x.shape) * scale, -3e38, 3e38).astype(np.float32) for k, x in params.items()
        }
        updates, state = opt.update(g, state, params)
        for k, x in params.items():
            assert np.isfinite(updates[k]).all()
            assert np.linalg.norm(updates[k]) <= (1 - 0.9) / (1 - 0.999) ** 0.5 * x.size**0.5


def test_units_round_nothing():
    """A power of two in the gradients changes no bit of the steps, across every change of units."""
    rng = np.random.default_rng(0)
    grads = [rng.standard_normal((5, 7)) * 2.0 ** rng.integers(-3, 4) for _ in range(25)]

    def train(power):
        opt, W = Shampoo(1e-2), np.zeros((5, 7))
        state, moves = opt.init(W), []
        for g in grads:
            update, state = opt.update(g * 2.0**power, state, W)
            moves.append(update)
        return moves, state

    moves, state = train(0)
    assert int(state["exponent"]) == 0
    for power in (-300, -25, 10, 45, 300):
        scaled, state = train(power)
        assert (int(state["exponent"]) != 0) == (2.0**power * 10 < LOW or 2.0**power * 10 > HIGH)
        for a, b in zip(moves, scaled, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias_correction": False},
        {"graft": "rmsprop", "graft_beta": 0.9},
        {"graft": "trust_ratio", "weight_decay": 0.1},
        {"graft": "adagrad"},
        {"graft": "adam", "graft_normalize": True},
        {"momentum": "nesterov"},
    ],
)
def test_torch_has_the_numbers_of_numpy(options, dtype):
    """Its own kernel of Adam reads memory in its order, so a gradient that lies otherwise must be copied."""
    rng = np.random.default_rng(0)
    opt = Shampoo(1e-2, preconditioned_dims="none", **options)
    ours = {"w": rng.standard_normal((6, 9)), "b": rng.standard_normal(5), "t": rng.standard_normal((40, 3))}
    ours = {name: x.astype(dtype) for name, x in ours.items()}
    pure, written = ({name: torch.tensor(x) for name, x in ours.items()} for _ in range(2))
    states = [opt.init(x) for x in (ours, pure, written)]
    for k in range(6):
        g = {name: (10.0 ** (k - 3) * rng.standard_normal(x.shape)).astype(dtype) for name, x in ours.items()}
        theirs = {name: torch.tensor(x) for name, x in g.items()}
        theirs["w"] = theirs["w"].T.contiguous().T
        want, states[0] = opt.update(g, states[0], ours)
        before = {name: x.clone() for name, x in states[1].arrays.items() if isinstance(x, torch.Tensor)}
        old, (got, new) = states[1], opt.update(theirs, states[1], pure)
        assert all(torch.equal(old.arrays[name], x) for name, x in before.items())
        states[1], states[2] = new, opt.step(written, theirs, states[2])
        ours, pure = apply_updates(ours, want), apply_updates(pure, got)
        close = {"rtol": 1e-5 if dtype == np.float32 else 1e-12, "atol": 1e-7}
        for name, x in want.items():
            np.testing.assert_allclose(got[name].numpy(), x, **close)
            assert torch.equal(written[name], pure[name])
    for name in before:
        np.testing.assert_allclose(states[1].arrays[name].numpy(), states[0].arrays[name], rtol=1e-5)
