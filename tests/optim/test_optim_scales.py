"""Gradients whose size changes from one step to the next, and within a tensor."""

from __future__ import annotations

import numpy as np
import pytest

from matroot_optim import SOAP, KLShampoo, Shampoo
from matroot_optim.step.elementwise import agree_all
from matroot_optim.step.finish import cautious_weights
from matroot_optim.torch import Shampoo as TorchShampoo

torch = pytest.importorskip("torch")
SHAPES = {"w": (6, 9), "b": (5,)}
USUAL = [1.0] * 8
#: Sizes of eight gradients, down to 1e-33 of those before: 2^-126 of them is subnormal.
SIZES = [
    [1, 1, 1, 1, 1e-19, 1e-19, 1e-19, 1e-19],
    [1, 1, 1, 1, 1e-25, 1e-25, 1e-30, 1e-30],
    [1, 1e-12, 1e-24, 1e-33, 1, 1, 1, 1],
    [1e-16, 1e17, 1e-16, 1e17, 1, 1, 1e-16, 1e17],
    [1e25] * 8,
    [1e-25] * 8,
]


def by_numpy(x):
    return x


def by_torch(x):
    return torch.tensor(x)


def moves_of(opt, sizes, made=by_numpy):
    rng = np.random.default_rng(0)
    params = {k: made(np.ones(shape, np.float32)) for k, shape in SHAPES.items()}
    state, moves = opt.init(params), []
    for size in sizes:
        g = {k: made(rng.standard_normal(x.shape).astype(np.float32) * np.float32(size)) for k, x in params.items()}
        updates, state = opt.update(g, state, params)
        moves.append({k: np.asarray(x, np.float64) for k, x in updates.items()})
    return moves


def traced_moves_of(options, sizes):
    jax = pytest.importorskip("jax")
    from matroot_optim.optax import shampoo

    tx = shampoo(1.0, **options)
    rng = np.random.default_rng(0)
    params = {k: jax.numpy.ones(shape, "float32") for k, shape in SHAPES.items()}
    state, moves, step = tx.init(params), [], jax.jit(tx.update)
    for size in sizes:
        g = {k: rng.standard_normal(x.shape).astype(np.float32) * np.float32(size) for k, x in params.items()}
        updates, state = step(g, state, params)
        moves.append({k: np.asarray(x, np.float64) for k, x in updates.items()})
    return moves


@pytest.mark.parametrize("made", [by_numpy, by_torch], ids=["numpy", "torch"])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("momentum", ["ema", "nesterov", "none"])
@pytest.mark.parametrize("graft", ["adam", "rmsprop", "sgd"])
def test_normalized_gradients_have_no_size(graft, momentum, sizes, made):
    """The first-order method sees G / ||G||, in its momentum too: any sizes give the steps of size one."""
    options = {"graft": graft, "graft_normalize": True, "momentum": momentum, "preconditioned_dims": "none"}
    for move, want in zip(
        moves_of(Shampoo(1.0, **options), sizes, made), moves_of(Shampoo(1.0, **options), USUAL), strict=True
    ):
        for k in SHAPES:
            np.testing.assert_allclose(move[k], want[k], atol=1e-5 * np.abs(want[k]).max(), rtol=0)


@pytest.mark.parametrize("sizes", SIZES[:4])
def test_normalized_gradients_have_no_size_under_jit(sizes):
    options = {"graft_normalize": True, "preconditioned_dims": "none"}
    for move, want in zip(traced_moves_of(options, sizes), moves_of(Shampoo(1.0, **options), USUAL), strict=True):
        for k in SHAPES:
            np.testing.assert_allclose(move[k], want[k], atol=2e-5 * np.abs(want[k]).max(), rtol=0)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("kind", [Shampoo, SOAP])
def test_normalized_directions_have_the_norm_of_the_graft(kind, sizes):
    """With roots too: (1 - b1) / (1 - b2)^(1/2) is the most that Adam's step can be."""
    for move in moves_of(kind(1.0, graft_normalize=True, start_step=2, refresh_every=1), sizes):
        for x in move.values():
            assert np.linalg.norm(x) <= (1 - 0.9) / (1 - 0.999) ** 0.5 * x.size**0.5


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("size", [1e-25, 1e-12, 1e12, 1e25])
@pytest.mark.parametrize("more", [{}, {"graft_per_block": True}, {"momentum_of": "direction"}, {"mix_steps": 4}])
def test_steps_of_sgd_have_the_size_of_the_gradient(more, size, normalize):
    """The squares of such steps are no float32. Normalized, they have the size one."""
    opt = Shampoo(1.0, graft="sgd", start_step=2, graft_normalize=normalize, **more)
    scale = 1.0 if normalize else float(np.float32(size))
    for move, want in zip(moves_of(opt, [size] * 8), moves_of(opt, USUAL), strict=True):
        for k in SHAPES:
            np.testing.assert_allclose(move[k] / scale, want[k], atol=1e-4 * np.abs(want[k]).max(), rtol=0)


@pytest.mark.parametrize("sizes", [*SIZES, [1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1e-12, 1e-12, 1e-24, 1e-24, 0, 0]])
@pytest.mark.parametrize("second", [0.0, 1e-6, 0.1])
@pytest.mark.parametrize("momentum", ["ema", "heavy_ball"])
@pytest.mark.parametrize("kind", [Shampoo, SOAP])
def test_a_second_moment_forgotten_before_the_momentum(kind, momentum, second, sizes):
    """Adam's steps are long there, up to 1 / epsilon: an entry of the mean over epsilon times the largest rms."""
    longest = 1e8 * (1.0 if momentum == "ema" else 10.0)
    for move in moves_of(kind(1.0, betas=(0.9, second), momentum=momentum, refresh_every=1), sizes):
        for x in move.values():
            assert np.linalg.norm(x) <= 1.001 * longest * x.size**0.5


def test_adam_is_as_long_where_its_second_moment_is_forgotten():
    """With betas of 0.9 and 0, a gradient of 1 and then smaller ones: its first step then is 0.9 / epsilon."""
    w = torch.zeros(1, requires_grad=True)
    adam = torch.optim.Adam([w], 1.0, betas=(0.9, 0.0))
    opt, W = Shampoo(1.0, betas=(0.9, 0.0), bias_correction=False), np.zeros(1, np.float32)
    state, adams, ours = opt.init(W), [], []
    for t in range(30):
        g = np.full(1, 1.0 if t < 20 else 1e-19, np.float32)
        w.grad, before = torch.tensor(g), w.detach().clone()
        adam.step()
        adams.append(float(abs(w.detach() - before).max()))
        updates, state = opt.update(g, state, W)
        ours.append(float(abs(updates).max()))
    assert max(ours) == pytest.approx(max(adams), rel=0.25)  # epsilon follows the largest norm, by 0.9 a step
    assert max(ours) > 1e7


def test_signs_are_compared_where_products_underflow():
    """Entries of a tensor may be 1e30 times smaller than others, and so are their steps."""
    D, g = np.array([1e-30, -1e-30, 1e-30, 1.0, 0.0], np.float32), np.array([1e-30, -1e-30, -1e-30, 1.0, 1.0], "f4")
    for made in (by_numpy, by_torch):
        assert np.asarray(agree_all([made(D)], [made(g)])[0]).tolist() == [1, 1, 0, 1, 0]
        shrunk = np.asarray(cautious_weights(made(D), made(g)))
        assert (shrunk == g * np.array([1, 1, 0, 1, 1], "f4")).all()


def test_a_momentum_that_schedulers_move_is_remembered_at_its_own_pace():
    """As under OneCycleLR, which changes the first of betas at every step."""
    W = torch.zeros(6, 9, requires_grad=True)
    opt = TorchShampoo([W], 1.0, betas=(0.0, 0.25), refresh_every=1)
    for t in range(12):
        opt.param_groups[0]["betas"] = (0.9, 0.25)
        W.grad, before = torch.full((6, 9), 1.0 if t < 6 else 1e-30), W.detach().clone()
        opt.step()
        assert torch.linalg.vector_norm(W.detach() - before) <= 1e8 * W.numel() ** 0.5


@pytest.mark.parametrize("spike", [1e12, 1e24, 1e30, 1e36, 1e46])
@pytest.mark.parametrize("kind", ["KLShampoo", "SOAP"])
@pytest.mark.parametrize("shape", [(6, 9), (4, 5, 6)])
@pytest.mark.parametrize("every", [1, 3])
def test_whitened_statistics_stay_finite_after_a_spike(kind, spike, every, shape):
    """The old roots belong to gradients that were so much smaller, and the square of their product is no float32."""
    small = 1.0 if spike <= 1e36 else 1e-27
    options = {"statistics_of": "whitened", "refresh_every": 1, "statistics_every": every, "merge": None}
    opt = {"KLShampoo": KLShampoo, "SOAP": SOAP}[kind](1.0, **options)
    rng, W = np.random.default_rng(0), np.ones(shape, np.float32)
    state = opt.init(W)
    for t in range(12):
        size = small * spike if t in (5, 8) else small
        update, state = opt.update((rng.standard_normal(shape) * size).astype(np.float32), state, W)
        assert np.isfinite(update).all()
        assert all(np.isfinite(x).all() for name, x in state.items() if name.endswith(("statistic", "root", "moment")))


@pytest.mark.parametrize("shape", [(2, 0, 3), (0, 2, 3, 4), (0, 4, 4), (3, 0, 4)])
@pytest.mark.parametrize("batch_dims", [1, 2])
def test_batches_without_entries(shape, batch_dims):
    opt = Shampoo(0.1, batch_dims=batch_dims, precondition_vectors=True, preconditioned_dims="one_sided")
    W = {"none": np.ones(shape, np.float32), "some": np.ones((2, 2, 3, 4), np.float32)}
    state = opt.init(W)
    for _ in range(8):
        state = opt.step(W, {k: np.ones_like(x) for k, x in W.items()}, state)
    assert (W["some"] < 1).all() and state["none/count"] == 8


@pytest.mark.parametrize("options", [{}, {"statistics_of": "whitened", "exponent": None}, {"exponent": "-1/2"}])
@pytest.mark.parametrize("shape", [(6, 9), (4, 5, 6)])
@pytest.mark.parametrize("size", [1e-18, 1e-19, 1e-21])
def test_roots_of_statistics_that_are_forgotten_before_the_momentum(size, shape, options):
    """A mean of gradients that were so much larger would leave the range with them; the last good roots stay."""
    opt = Shampoo(1.0, betas=(0.9, 0.0), refresh_every=1, start_step=1, merge=None, **options)
    rng, W = np.random.default_rng(0), np.ones(shape, np.float32)
    state = opt.init(W)
    for t in range(10):
        g = rng.standard_normal(shape) * (1.0 if t < 4 else size)
        update, state = opt.update(g.astype(np.float32), state, W)
        assert np.isfinite(update).all()
        assert all(np.isfinite(x).all() for name, x in state.items() if name.endswith(("statistic", "root", "moment")))
