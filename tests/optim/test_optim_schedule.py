"""When roots are renewed: phases of equal cost, ages, callable intervals, spared roots."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matroot_optim import Shampoo
from matroot_optim.refresh.phases import assign, cost
from optim.problems import SHAPES, assert_same, run


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=40), st.integers(1, 12))
def test_longest_processing_time_first(costs, phases):
    phase = assign(costs, phases)
    load = np.bincount(phase, weights=costs, minlength=phases)
    # Graham (1969): at most 4/3 of the best, which is at least the mean and the largest job.
    assert load.max() <= sum(costs) / phases + max(costs)
    if len(costs) >= phases:
        assert (load > 0).all()
    assert assign(costs, phases).tolist() == phase.tolist()


def test_equal_jobs_are_spread_evenly():
    assert np.bincount(assign([cost(64)] * 40, 10)).tolist() == [4] * 10


def test_more_phases_than_jobs():
    assert assign([1.0, 3.0, 2.0], 10**12).tolist() == [2, 0, 1]


def refreshed(opt, steps, shapes=SHAPES):
    """Number of roots renewed at each step."""
    from optim.problems import gradients, weights

    params = weights(shapes)
    state, counts = opt.init(params), []
    for g in gradients(shapes, steps):
        before = sum(state.arrays[f"{s.axis_name(a)}/refreshes"].sum() for s, a in state.layout.factors)
        _, state = opt.update(g, state, params)
        counts.append(sum(state.arrays[f"{s.axis_name(a)}/refreshes"].sum() for s, a in state.layout.factors) - before)
    return counts, state


def test_interval_renews_all_on_one_step():
    counts, state = refreshed(Shampoo(0.1, schedule="interval", refresh_every=4, refresh_growth=0.0), 12)
    roots = sum(s.blocks for s, _ in state.layout.factors)
    assert counts == [roots, 0, 0, 0] * 3


def test_staggered_renews_some_on_every_step():
    counts, state = refreshed(Shampoo(0.1, refresh_every=4, block_size=3, refresh_growth=0.0), 40)
    roots = sum(s.blocks for s, _ in state.layout.factors)
    assert sum(counts[:4]) == roots  # every root within the first interval
    assert counts[4:8] * 9 == counts[4:]
    assert max(counts) <= -(-roots // 4) + 1


def test_staggered_is_synchronous_up_to_age():
    """Every root in use was made from the statistics of the step it says, at most an interval ago."""
    from optim.oracle import Oracle, power, unfolding_gram
    from optim.problems import gradients, weights

    every = 5
    opt = Shampoo(0.1, refresh_every=every, block_size=3, ridge=1e-6, refresh_growth=0.0, exponent=None)
    shapes = {"a": (6, 9)}
    params = weights(shapes)
    state = opt.init(params)
    blocks = Oracle((6, 9), block=3).blocks
    history = []
    for t, g in enumerate(gradients(shapes, 17), 1):
        _, state = opt.update(g, state, params)
        for b in blocks:
            for i in (0, 1):
                b["S"][i] = 0.999 * b["S"][i] + 0.001 * unfolding_gram(g["a"][b["index"]], i)
        history.append([{i: b["S"][i] / (1 - 0.999**t) for i in (0, 1)} for b in blocks])
        for k in range(len(blocks)):
            for i in (0, 1):
                name = f"a/block{k}/axis{i}"
                taken = int(state[f"{name}/taken"])
                assert t < every or 0 <= t - taken < every
                if taken:
                    want = power(history[taken - 1][k][i], -0.25, 1e-6)
                    np.testing.assert_allclose(state[f"{name}/root"], want, rtol=1e-7, atol=1e-9)


def test_callable_interval():
    counts, _ = refreshed(
        Shampoo(0.1, schedule="interval", refresh_every=lambda step: 1 if step < 4 else 3, refresh_growth=0.0), 10
    )
    assert [c > 0 for c in counts] == [True, True, True, False, False, True, False, False, True, False]


def test_a_longer_interval_is_dealt_anew():
    """From 4 to 16 steps: the roots spread over all of the 16, though none waits longer than 16 for its turn."""
    opt = Shampoo(0.1, refresh_every=lambda step: 4 if step < 20 else 16, block_size=3, refresh_growth=0.0)
    counts, state = refreshed(opt, 20 + 3 * 16)
    roots = sum(s.blocks for s, _ in state.layout.factors)
    # Longest processing time first is within 4/3 of the best.
    assert max(counts[8:19]) <= 4 / 3 * -(-roots // 4)
    assert max(counts[19 + 16 :]) <= 2 * -(-roots // 16)
    assert max(opt.diagnostics(state).roots["age"]) < 16


def test_young_statistics_have_young_roots():
    """No root in use is older than a fifth of the steps its statistics have seen, and from 100 on none than 10."""
    opt = Shampoo(0.1, refresh_every=10, block_size=3)
    params = {"a": np.ones((6, 9))}
    state, rng = opt.init(params), np.random.default_rng(0)
    for t in range(1, 160):
        _, state = opt.update({"a": rng.standard_normal((6, 9))}, state, params)
        taken = np.array([state[name] for name in state if name.endswith("/taken")])
        if t < opt.first_shampoo_step:
            assert not taken.any()  # none that would not be used
            continue
        assert (t - taken).max() <= max(0.2 * t, 0 if t < 20 else 2), t
        assert t < 120 or (t - taken).max() < 10


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1e-3])
def test_callable_rate_is_checked(bad):
    opt = Shampoo(lambda step: bad if step == 2 else 0.1)
    W = np.ones(3)
    state = opt.init(W)
    for _ in range(2):
        state = opt.step(W, W.copy(), state)
    before = W.copy()
    with pytest.raises(ValueError, match=r"learning_rate must give a number >= 0, got .* at step 2"):
        opt.step(W, W.copy(), state)
    np.testing.assert_array_equal(W, before)
    assert state.step == 2


@pytest.mark.parametrize("bad", [0, 1.5, "10"])
def test_callable_interval_is_checked(bad):
    with pytest.raises(ValueError, match="refresh_every must give an int >= 1"):
        Shampoo(0.1, refresh_every=lambda step: bad).init(np.ones((2, 2)))


def test_explicit_start_has_its_roots():
    """Roots that nobody computed when Shampoo starts are computed then, and keep their phase."""
    opt = Shampoo(0.1, refresh_every=10, start_step=3, refresh_growth=0.0)
    counts, state = refreshed(opt, 3)
    assert all(int(state[name]) > 0 for name in state if name.endswith("/taken"))
    counts, _ = refreshed(opt, 23)
    assert max(counts[3:]) <= 2


def test_residual_schedule_spares_roots_that_still_fit():
    slow = Shampoo(
        0.1, refresh_every=1, schedule="residual", stale_tolerance=0.3, ridge=1e-3, exponent=None, start_step=1
    )
    _, state = run(slow, 60)
    roots = [n.removesuffix("/spared") for n in state if n.endswith("/spared")]
    spared = sum(int(state[f"{n}/spared"]) for n in roots)
    refreshes = sum(int(state[f"{n}/refreshes"]) for n in roots)
    assert spared > refreshes > len(roots)
    assert spared + refreshes == 60 * len(roots)


def test_residual_schedule_with_a_tiny_bound_is_staggered():
    a, _ = run(Shampoo(0.1, refresh_every=3, schedule="residual", stale_tolerance=1e-12))
    b, _ = run(Shampoo(0.1, refresh_every=3))
    assert_same(a, b)


def test_residual_schedule_spares_some_blocks_of_a_stack_and_renews_the_others():
    opt = Shampoo(0.05, refresh_every=4, schedule="residual", ridge=1e-4, block_size=4, start_step=4)
    _, state = run(opt, steps=14)
    spared = [int(state[k]) for k in state if k.endswith("/spared")]
    assert 0 < sum(spared)
    assert min(spared) < max(spared)
