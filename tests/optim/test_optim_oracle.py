"""Every element of the optimizer against the dense float64 oracle, and against numbers computed by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from matroot_optim import Shampoo, apply_updates
from matroot_optim.allowed import GRAFTS
from optim.oracle import Oracle

BASE = {
    "learning_rate": 0.1,
    "refresh_every": 1,
    "schedule": "interval",
    "start_step": 1,
    "ridge": 1e-6,
    "block_aspect": None,
}
BASE |= {"refresh_growth": 0.0, "exponent": None}

# What is set: options of Shampoo, options of the oracle.
ELEMENTS = {
    "default": ({}, {}),
    "sum": ({"betas": (0.9, 1.0)}, {"b2": 1.0}),
    "uncorrected": ({"bias_correction": False}, {"correct": False}),
    "beta2=0": ({"betas": (0.5, 0.0)}, {"b1": 0.5, "b2": 0.0}),
    "ridge": ({"ridge": 1e-3}, {"ridge": 1e-3}),
    "every=3": ({"refresh_every": 3}, {"every": 3}),
    "exponent": ({"exponent": -0.5}, {"exponent": -0.5}),
    "exponent=-3/8": ({"exponent": "-3/8"}, {"exponent": -0.375}),
    "graft none": ({"graft": "none"}, {"graft": "none"}),
    "graft sgd": ({"graft": "sgd"}, {"graft": "sgd"}),
    "graft adagrad": ({"graft": "adagrad"}, {"graft": "adagrad"}),
    "graft rmsprop": ({"graft": "rmsprop", "graft_beta": 0.9}, {"graft": "rmsprop", "graft_beta": 0.9}),
    "graft adam": ({"graft": "adam", "graft_beta": 0.9}, {"graft": "adam", "graft_beta": 0.9}),
    "graft sqrt_n": ({"graft": "sqrt_n"}, {"graft": "sqrt_n"}),
    "graft trust": ({"graft": "trust_ratio"}, {"graft": "trust_ratio"}),
    "epsilon": ({"graft_epsilon": 1e-2}, {"eps": 1e-2}),
    "epsilon 0": ({"graft_epsilon": 0.0}, {"eps": 0.0}),
    "start": ({"start_step": 3}, {"start": 3}),
    "mix": ({"start_step": 2, "mix_steps": 3}, {"start": 2, "mix": 3}),
    "start, none": ({"start_step": 3, "graft": "none"}, {"start": 3, "graft": "none"}),
    "heavy ball": ({"momentum": "heavy_ball"}, {"momentum": "heavy_ball"}),
    "nesterov": ({"momentum": "nesterov"}, {"momentum": "nesterov"}),
    "momentum of the direction": ({"momentum_of": "direction"}, {"of": "direction"}),
    "heavy ball of the direction": (
        {"momentum": "heavy_ball", "momentum_of": "direction"},
        {"momentum": "heavy_ball", "of": "direction"},
    ),
    "nesterov of the direction, uncorrected": (
        {"momentum": "nesterov", "momentum_of": "direction", "bias_correction": False},
        {"momentum": "nesterov", "of": "direction", "correct": False},
    ),
    "no momentum": ({"momentum": "none"}, {"momentum": "none"}),
    "l2": ({"decay": "l2", "weight_decay": 0.1}, {"decay": "l2", "wd": 0.1}),
    "decoupled": ({"weight_decay": 0.1}, {"wd": 0.1}),
    "independent": ({"decay": "independent", "weight_decay": 0.1}, {"decay": "independent", "wd": 0.1}),
    "clip_rms": ({"clip_rms": 0.3}, {"clip_rms": 0.3}),
    "cautious update": ({"cautious_update": True}, {"cautious_update": True}),
    "cautious decay": ({"cautious_decay": True, "weight_decay": 0.1}, {"cautious_decay": True, "wd": 0.1}),
    "cautious, independent": (
        {"cautious_decay": True, "weight_decay": 0.1, "decay": "independent"},
        {"cautious_decay": True, "wd": 0.1, "decay": "independent"},
    ),
    "hyperball": ({"hyperball": True}, {"hyperball": True}),
    "hyperball, clipped, with decay": (
        {"hyperball": True, "clip_rms": 0.3, "cautious_update": True, "weight_decay": 0.1},
        {"hyperball": True, "clip_rms": 0.3, "cautious_update": True, "wd": 0.1},
    ),
    "blocks": ({"block_size": 4}, {"block": 4}),
    "blocks of 1": ({"block_size": 1}, {"block": 1}),
    "statistics every 2": ({"statistics_every": 2, "refresh_every": 2}, {"statistics": 2, "every": 2}),
    "start, mix, one graft": (
        {"start_step": 2, "mix_steps": 2, "graft": "trust_ratio", "momentum": "nesterov"},
        {"start": 2, "mix": 2, "graft": "trust_ratio", "momentum": "nesterov"},
    ),
}
for graft in GRAFTS:  # every graft, per tensor and per block, of the gradient and of the gradient over its norm
    for normalize, per_block in itertools.product((False, True), repeat=2):
        ELEMENTS[f"{graft}, normalized {normalize}, per block {per_block}"] = (
            {"graft": graft, "graft_normalize": normalize, "graft_per_block": per_block, "block_size": 3},
            {"graft": graft, "normalize": normalize, "per_block": per_block, "block": 3},
        )


def run(opt, shapes, steps=6, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    params = [rng.standard_normal(s).astype(dtype) for s in shapes]
    state = opt.init(params)
    history = []
    for _ in range(steps):
        grads = [rng.standard_normal(s).astype(dtype) for s in shapes]
        updates, state = opt.update(grads, state, params)
        params = apply_updates(params, updates)
        history.append(updates)
    return params, state, history


def run_oracle(shapes, options, steps=6, seed=0):
    rng = np.random.default_rng(seed)
    params = [rng.standard_normal(s) for s in shapes]
    oracles = [Oracle(s, **{k: (v(s) if callable(v) else v) for k, v in options.items()}) for s in shapes]
    for _ in range(steps):
        grads = [rng.standard_normal(s) for s in shapes]
        params = [W + oracle.step(G, W) for W, G, oracle in zip(params, grads, oracles, strict=True)]
    return params


SHAPES = [(6, 9), (6, 9), (7,), (), (10, 4)]


@pytest.mark.parametrize("element", ELEMENTS)
def test_matches_the_oracle(element):
    options, plain = ELEMENTS[element]
    params, _, _ = run(Shampoo(**{**BASE, **options}), SHAPES)
    want = run_oracle(SHAPES, plain)
    for got, expected in zip(params, want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 3, 4, 5), (6, 1, 3), (1, 1), (1, 5), (2, 1, 1)])
def test_tensors_of_any_order(shape):
    opt = Shampoo(**BASE, merge=None)
    params, _, _ = run(opt, [shape])
    axes = tuple(i for i, n in enumerate(shape) if n > 1)
    want = run_oracle([shape], {"axes": axes})
    np.testing.assert_allclose(params[0], want[0], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("shape", [(3, 4, 5), (5, 7, 3)])
def test_blocked_tensors_of_order_3(shape):
    params, _, _ = run(Shampoo(**BASE, merge=None, block_size=3), [shape])
    np.testing.assert_allclose(params[0], run_oracle([shape], {"block": 3})[0], rtol=1e-8, atol=1e-10)


def test_merged_tensor_is_the_matrix():
    rng = np.random.default_rng(0)
    G = [rng.standard_normal((3, 3, 8)) for _ in range(4)]
    opt = Shampoo(**BASE, merge=9)
    a, b = np.zeros((3, 3, 8)), np.zeros((9, 8))
    sa, sb = opt.init(a), opt.init(b)
    for g in G:
        ua, sa = opt.update(g, sa, a)
        ub, sb = opt.update(g.reshape(9, 8), sb, b)
        np.testing.assert_array_equal(ua.reshape(9, 8), ub)


@pytest.mark.parametrize(
    ("dims", "axes"),
    [("one_sided", lambda s: (int(np.argmin(s)),)), ((0,), (0,)), ((-1,), (1,)), ((), ())],
)
def test_one_sided_and_per_dimension(dims, axes):
    shapes = [(4, 9), (9, 4)]
    params, _, _ = run(Shampoo(**BASE, preconditioned_dims=dims), shapes)
    for got, want in zip(params, run_oracle(shapes, {"axes": axes}), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-10)


def test_one_sided_exponent_is_minus_one_half():
    plain = {"ridge": 0.0, "graft": "none", "momentum": "none", "betas": (0.0, 1.0)}
    opt = Shampoo(**BASE | plain, preconditioned_dims="one_sided")
    G = np.diag([3.0, 4.0]) @ np.ones((2, 1)) * np.eye(2, 5)
    u, _ = opt.update(G, opt.init(G), G)
    # L = diag(9, 16): L^{-1/2} G has unit rows where G has one entry a row.
    np.testing.assert_allclose(-u / 0.1, np.eye(2, 5), atol=1e-12)


def test_large_dimension_is_left_out_and_not_cut():
    params, state, _ = run(Shampoo(**BASE, max_preconditioned_dim=6, block_size=4), [(20, 5)])
    np.testing.assert_allclose(params[0], run_oracle([(20, 5)], {"axes": (1,), "block": 4})[0], rtol=1e-8, atol=1e-10)
    assert not any("axis0" in name for name in state)


def test_vectors_on_request():
    params, _, _ = run(Shampoo(**BASE, precondition_vectors=True), [(7,)])
    np.testing.assert_allclose(params[0], run_oracle([(7,)], {"axes": (0,)})[0], rtol=1e-8, atol=1e-10)


def test_blocks_are_independent_shampoos():
    opt = Shampoo(**BASE, block_size=4, graft_per_block=True)
    whole, _, history = run(opt, [(6, 9)])
    rng = np.random.default_rng(0)
    W = rng.standard_normal((6, 9))
    gradients = [rng.standard_normal((6, 9)) for _ in range(6)]
    for rows in (slice(0, 4), slice(4, 6)):
        for columns in (slice(0, 4), slice(4, 8), slice(8, 9)):
            # A block of size 1 keeps its statistic, which a tensor of size 1 would not have.
            part = Oracle(W[rows, columns].shape, eps=0.0)
            w = W[rows, columns]
            # The second moment's epsilon is relative to the tensor, 1e-8 of it.
            for G in gradients:
                w = w + part.step(G[rows, columns], w)
            np.testing.assert_allclose(whole[0][rows, columns], w, rtol=1e-6, atol=1e-8)
    assert len(history) == 6


def test_block_size_1_is_diagonal_adagrad():
    opt = Shampoo(**BASE | {"ridge": 0.0}, block_size=1, graft="none", momentum="none", betas=(0.0, 1.0))
    rng = np.random.default_rng(3)
    W = np.zeros((4, 5))
    state, total = opt.init(W), np.zeros((4, 5))
    for _ in range(5):
        G = rng.standard_normal((4, 5))
        total += G * G
        u, state = opt.update(G, state, W)
        np.testing.assert_allclose(u, -0.1 * G / np.sqrt(total), rtol=1e-10)


def test_global_norm_clipping():
    opt = Shampoo(1.0, graft="sgd", momentum="none", clip_norm=1.0)
    G = {"a": np.array([3.0]), "b": np.array([4.0])}
    u, _ = opt.update(G, opt.init(G))
    np.testing.assert_allclose([u["a"][0], u["b"][0]], [-0.6, -0.8])


def test_rate_schedule_counts_from_0():
    opt = Shampoo(lambda step: 10.0**-step, graft="sgd", momentum="none")
    state = opt.init(np.zeros(1))
    for want in (1.0, 0.1, 0.01):
        u, state = opt.update(np.ones(1), state)
        np.testing.assert_allclose(u, -want)


def test_groups_by_path():
    def groups(path):
        return {"weight_decay": 0.5, "learning_rate": 1.0} if path.endswith("bias") else None

    opt = Shampoo(0.1, graft="sgd", momentum="none", groups=groups)
    W = {"kernel": np.ones(2), "bias": np.ones(2)}
    u, _ = opt.update(W, opt.init(W), W)
    np.testing.assert_allclose(u["kernel"], -0.1)
    np.testing.assert_allclose(u["bias"], -1.5)


def test_loewner_bound_needs_the_rank():
    """eps I + sum g g^T <= r L^{1/p} (x) R^{1/q} for gradients of rank r, and not without r."""
    rng = np.random.default_rng(0)
    m, n, r = 4, 5, 3
    worst = {1: 0.0, r: 0.0}
    for _ in range(50):
        G = [np.linalg.qr(rng.standard_normal((m, r)))[0] @ np.linalg.qr(rng.standard_normal((n, r)))[0].T]
        eps = 1e-9
        L = eps * np.eye(m) + sum(g @ g.T for g in G)
        R = eps * np.eye(n) + sum(g.T @ g for g in G)
        left = eps * np.eye(m * n) + sum(np.outer(g.ravel(), g.ravel()) for g in G)
        for factor in worst:
            right = factor * np.kron(power(L, 0.5), power(R, 0.5))
            worst[factor] = min(worst[factor], np.linalg.eigvalsh(right - left)[0])
    assert worst[r] > -1e-6
    assert worst[1] < -0.1


def power(A, s):
    w, Q = np.linalg.eigh(A)
    return (Q * w**s) @ Q.T


def test_statistics_every():
    opt = Shampoo(**BASE, statistics_every=3, bias_correction=False)
    rng = np.random.default_rng(0)
    G = [rng.standard_normal((3, 4)) for _ in range(5)]
    state = opt.init(G[0])
    for g in G:
        _, state = opt.update(g, state, g)
    L = 0.001 * (0.999 * G[0] @ G[0].T + G[3] @ G[3].T)
    np.testing.assert_allclose(state["block0/axis0/statistic"], L[np.tril_indices(3)], rtol=1e-12)
    assert state["accumulated"] == 2
