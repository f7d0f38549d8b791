"""A problem with a known answer: f(W) = (m/2) mean((A (W - W*) B)^2), kappa(A^T A) = kappa(B B^T) = 30."""

from __future__ import annotations

import numpy as np
import pytest

from matroot_optim import Shampoo

M, N = 32, 48


def problem(seed=0):
    rng = np.random.default_rng(seed)

    def conditioned(n, kappa=30.0):
        Q, _ = np.linalg.qr(rng.standard_normal((n, n)))
        P, _ = np.linalg.qr(rng.standard_normal((n, n)))
        return (Q * np.geomspace(1, 1 / kappa, n) ** 0.5) @ P

    A, B, target = conditioned(M), conditioned(N), rng.standard_normal((M, N))

    def loss(W):
        return M / 2 * np.mean((A @ (W - target) @ B) ** 2)

    def gradient(W):
        exact = A.T @ (A @ (W - target) @ B) @ B.T / N
        return exact + 1e-5 * rng.standard_normal((M, N))

    return loss, gradient


def steps_to(rule, goal, limit):
    """Steps until the loss is `goal` times its start, or the limit."""
    loss, gradient = problem()
    W = np.zeros((M, N))
    first = loss(W)
    for t in range(1, limit + 1):
        W = W + rule(gradient(W))
        if loss(W) <= goal * first:
            return t
    return limit


def adam(rate):
    m, v, t = 0.0, 0.0, 0

    def rule(g):
        nonlocal m, v, t
        t += 1
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g * g
        return -rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)

    return rule


def shampoo(rate, every, **options):
    theory = {"exponent": None, "refresh_growth": 0.0, "schedule": "interval"}
    opt = Shampoo(rate, graft="adagrad", betas=(0.9, 1.0), refresh_every=every, **theory, **options)
    state = opt.init(np.zeros((M, N)))

    def rule(g):
        nonlocal state
        u, state = opt.update(g, state)
        return u

    return rule


pytestmark = pytest.mark.slow  # thousands of steps

RATES = {"adam": (0.01, 0.02, 0.03, 0.05), "shampoo": (0.3, 1.0, 2.0, 3.0)}


@pytest.fixture(scope="module")
def steps():
    found = {"adam": min(steps_to(adam(rate), 1e-5, 4000) for rate in RATES["adam"])}
    for every in (1, 10, 500):
        limit = 4000 if every == 500 else 600
        found[every] = min(steps_to(shampoo(rate, every), 1e-5, limit) for rate in RATES["shampoo"])
    return found


def test_shampoo_needs_a_fraction_of_adams_steps(steps):
    assert steps[10] <= 0.15 * steps["adam"], steps
    assert steps[1] <= steps[10] * 1.1, steps


def test_stale_roots_are_clearly_worse(steps):
    assert steps[500] > 3 * steps[10], steps


def test_staggered_is_as_good_as_synchronous(steps):
    def rule(rate):
        opt = Shampoo(rate, graft="adagrad", betas=(0.9, 1.0), refresh_every=10, block_size=16, exponent=None)
        state = opt.init(np.zeros((M, N)))

        def step(g):
            nonlocal state
            u, state = opt.update(g, state)
            return u

        return step

    blocks = min(steps_to(rule(rate), 1e-5, 3000) for rate in RATES["shampoo"])
    assert blocks < 0.6 * steps["adam"], (blocks, steps)


def test_first_run_with_adams_rate_and_defaults(steps):
    """Only the learning rate is given, the one that is best for Adam."""
    best = min(RATES["adam"], key=lambda rate: steps_to(adam(rate), 1e-3, 2000))

    def rule():
        opt = Shampoo(best)
        state = opt.init(np.zeros((M, N)))

        def step(g):
            nonlocal state
            u, state = opt.update(g, state)
            return u

        return step

    assert steps_to(rule(), 1e-3, 2000) < steps_to(adam(best), 1e-3, 2000)
