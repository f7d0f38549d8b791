"""Rules at the end of a step, each against three steps computed by hand, and in every adapter."""

from __future__ import annotations

import numpy as np
import pytest

from matroot_optim import Shampoo
from matroot_optim.step.elementwise import agree_all
from matroot_optim.step.finish import cautious, clip_rms, on_sphere, with_norms

SGD = {"graft": "sgd", "momentum": "none"}


def check(opt, W, steps):
    """Compare the weights after each gradient."""
    W = np.array(W, float)
    state = opt.init(W)
    for g, want in steps:
        state = opt.step(W, np.array(g, float), state)
        np.testing.assert_allclose(W, want, rtol=1e-14, atol=1e-15)


def test_clipping_of_the_rms():
    """RMS of the gradients: 5 / sqrt(2), 1 / sqrt(2), sqrt(2); Adafactor's d is 1."""
    a, b = 3 * 2**0.5 / 5, 4 * 2**0.5 / 5
    opt = Shampoo(0.5, clip_rms=1.0, **SGD)
    check(
        opt,
        [0, 0],
        [
            ([3, 4], [-a / 2, -b / 2]),
            ([0.6, 0.8], [-a / 2 - 0.3, -b / 2 - 0.4]),
            ([0, 2], [-a / 2 - 0.3, -b / 2 - 0.4 - 2**0.5 / 2]),
        ],
    )


def test_cautious_decay():
    """Only entries with D W >= 0 decay: the first; the second; the first, whose D is 0."""
    steps = [([1, 1], [0.25, -1.5]), ([-1, -1], [0.75, -0.625]), ([0, 2], [0.5625, -1.625])]
    check(Shampoo(0.5, weight_decay=0.5, cautious_decay=True, **SGD), [1, -1], steps)
    steps = [([1, 1], [0.25, -1.5]), ([-1, -1], [0.75, -0.625]), ([0, 2], [0.5625, -1.625])]
    check(Shampoo(0.5, weight_decay=0.25, decay="independent", cautious_decay=True, **SGD), [1, -1], steps)
    with pytest.raises(ValueError, match="decay must be 'decoupled' or 'independent' with cautious_decay, got 'l2'"):
        Shampoo(0.5, decay="l2", cautious_decay=True)


def test_cautious_update():
    """m = (2, 2), (0.5, 3), (-0.75, 3.5): at the second step one entry waits, the other moves twice as far."""
    opt = Shampoo(1.0, graft="sgd", momentum="heavy_ball", betas=(0.5, 0.9), cautious_update=True)
    check(opt, [0, 0], [([2, 2], [-2, -2]), ([-0.5, 2], [-2, -8]), ([-1, 2], [-1.25, -11.5])])


def test_cautious_update_of_few_entries():
    D, g = np.ones(2000), -np.ones(2000)
    assert (cautious([D], agree_all([D], [g]), [np.zeros(())])[0] == 0).all()
    g[0] = 1
    found = cautious([D], agree_all([D], [g]), [np.asarray(1 / 2000)])[0]
    assert found.tolist() == [1000.0] + [0.0] * 1999  # their fraction counts as 1/1000 at least


def test_hyperball():
    """Before the first root D is the gradient. ||W|| = 5, so with the rate 0.2 each step has the norm 1."""
    k = 5 / 26**0.5
    second = np.array([[3 * k, -k], [0, 4 * k]]) - [[0, 0], [1, 0]]
    second *= 5 / np.linalg.norm(second)
    third = second + np.diag([0.6, -0.8])
    third *= 5 / np.linalg.norm(third)
    steps = [
        ([[0, 7], [0, 0]], [[3 * k, -k], [0, 4 * k]]),
        ([[0, 0], [1e-9, 0]], second),
        ([[-3, 0], [0, 4]], third),
    ]
    check(Shampoo(0.2, hyperball=True, start_step=9, **SGD), [[3, 0], [0, 4]], steps)


def test_hyperball_keeps_the_norm_and_leaves_vectors():
    rng = np.random.default_rng(0)
    W, plain = ({"W": np.ones((6, 4)), "b": np.ones(4)} for _ in range(2))
    opt, other = Shampoo(0.1, hyperball=True), Shampoo(0.1)
    state, known = opt.init(W), other.init(plain)
    for _ in range(20):
        before = W["W"].copy()
        g = {k: rng.standard_normal(x.shape) for k, x in W.items()}
        state, known = opt.step(W, g, state), other.step(plain, g, known)
        assert np.linalg.norm(W["W"]) == pytest.approx(24**0.5, rel=1e-12)
        assert np.linalg.norm(W["W"] - before) <= 0.11 * 24**0.5
    assert (W["b"] == plain["b"]).all()


def test_zeros_stay_finite():
    zero, W = np.zeros((2, 2)), np.ones((2, 2))
    nothing, four = np.zeros(()), np.asarray(4.0)
    assert (with_norms([zero.copy()], [nothing], [four])[0] == 0).all()
    assert (with_norms([W.copy()], [four], [nothing])[0] == W).all()
    assert (on_sphere(-W, W) == -W).all()
    assert (clip_rms(zero.copy(), np.zeros(()), 4, 1.0) == 0).all()
    assert (cautious([zero], agree_all([zero], [W]), [nothing])[0] == 0).all()


def test_weights_are_needed():
    for options in ({"hyperball": True}, {"averaging": "ema"}, {"weight_decay": 0.1, "cautious_decay": True}):
        opt = Shampoo(0.1, **options)
        with pytest.raises(ValueError, match="params must be given for weight decay, averages, hyperball"):
            opt.update(np.ones((2, 2)), opt.init(np.ones((2, 2))))


@pytest.mark.slow
def test_the_adapters_agree_with_the_core():
    torch = pytest.importorskip("torch")
    jax = pytest.importorskip("jax")
    optax = pytest.importorskip("optax")
    jax.config.update("jax_disable_most_optimizations", True)
    from matroot_optim.optax import shampoo
    from matroot_optim.torch import Shampoo as Torch

    options = {"cautious_update": True, "cautious_decay": True, "hyperball": True, "clip_rms": 0.9, "start_step": 2}
    rng = np.random.default_rng(0)
    W = {"w": rng.standard_normal((3, 2)).astype("f4"), "v": rng.standard_normal(4).astype("f4")}
    params = {k: torch.nn.Parameter(torch.from_numpy(x.copy())) for k, x in W.items()}
    y = {k: jax.numpy.asarray(x) for k, x in W.items()}
    core, tx = Shampoo(0.05, weight_decay=0.1, **options), shampoo(0.05, 0.1, **options)
    theirs = Torch(params.values(), 0.05, weight_decay=0.1, **options)
    state, other, update = core.init(W), tx.init(y), jax.jit(tx.update)
    for _ in range(5):
        g = {k: rng.standard_normal(x.shape).astype("f4") for k, x in W.items()}
        state = core.step(W, g, state)
        updates, other = update({k: jax.numpy.asarray(x) for k, x in g.items()}, other, y)
        y = optax.apply_updates(y, updates)
        for k, p in params.items():
            p.grad = torch.from_numpy(g[k])
        theirs.step()
        for k, x in W.items():
            np.testing.assert_allclose(params[k].detach(), x, rtol=2e-4, atol=1e-5)
            np.testing.assert_allclose(y[k], x, rtol=2e-4, atol=1e-5)
    masked = shampoo(0.05, 0.1, cautious_decay=True, mask={"w": True, "v": False}, preconditioned_dims="none")
    plain = shampoo(0.05, 0.0, preconditioned_dims="none")
    moves = [tx.update(y, tx.init(y), y)[0] for tx in (masked, plain)]
    assert np.array_equal(moves[0]["v"], moves[1]["v"])
    assert not np.array_equal(moves[0]["w"], moves[1]["w"])
