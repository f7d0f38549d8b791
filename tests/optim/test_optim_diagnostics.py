"""What the optimizer says of itself."""

from __future__ import annotations

import numpy as np
import pytest

from matroot import ConditionTracker
from matroot_optim import InlineEngine, Shampoo
from matroot_optim.refresh.jobs import stale_error
from matroot_optim.step.statistics import pack
from optim.problems import run


def test_facts_of_every_root():
    opt = Shampoo(0.05, refresh_every=4, block_size=4)
    _, state = run(opt, 10)
    d = opt.diagnostics(state)
    assert d.step == 10
    assert "a/block0/axis1" in d.names
    assert len(d.names) == sum(s.blocks for s, _ in state.layout.factors) == len(d.roots["cond"])
    assert 0 < d.worst_residual < 1e-6
    assert d.roots["age"].min() >= 0
    assert d.roots["age"].max() < 4
    assert (d.roots["cond"] >= 1).all()
    assert d.roots["refreshes"].min() >= 2
    assert set(d.graft_ratio) == {"a", "b", "c", "d", "e"}
    assert d.graft_ratio["a"] > 0


def test_a_line_for_people_and_a_dict_for_loggers():
    opt = Shampoo(0.05, refresh_every=2)
    params, state = run(opt, 5)
    bad = {**{k: np.ones_like(v) for k, v in params.items()}, "a": np.full((6, 9), np.nan)}
    _, state = opt.update(bad, state, params)
    d = opt.diagnostics(state)
    text = str(d)
    assert "\n" not in text
    assert "1 gradients not finite" in text
    values = d.to_dict()
    assert all(isinstance(v, float) for v in values.values())
    assert values["nonfinite_gradients"] == 1


def test_before_the_first_step_and_without_roots():
    opt = Shampoo(0.05)
    assert opt.diagnostics(opt.init(np.ones((2, 3)))).roots["age"].tolist() == [-1, -1]
    assert opt.diagnostics(opt.init(np.ones(3))).worst("cond") == ("", 0.0)
    assert "0 roots" in str(opt.diagnostics(opt.init(np.ones(3))))


def test_it_feeds_the_tracker():
    opt, tracker = Shampoo(0.05, refresh_every=2), ConditionTracker()
    for steps in (6, 8):
        opt.diagnostics(run(opt, steps)[1], tracker)
    values = tracker.to_dict()
    assert len(values["a/block0/axis0"]["cond"]) == 2
    assert "a/block0/axis1" in tracker.summary()


def test_plot():
    plt = pytest.importorskip("matplotlib.pyplot")
    opt = Shampoo(0.05, refresh_every=2)
    ax = opt.diagnostics(run(opt, 4)[1]).plot()
    assert ax.get_xlabel() == "condition number"
    plt.close("all")


def test_a_clock_counts_the_time_in_roots():
    engine = InlineEngine()
    run(Shampoo(0.05, engine=engine), 10)
    assert engine.clock.answers > 0
    assert 0 < engine.clock.root_seconds < 60
    assert "0 failures" in repr(engine.clock)


@pytest.mark.parametrize("exponent", ["-1/2", "-1/4", "-3/8"])
def test_stale_error(exponent):
    from fractions import Fraction

    s = Fraction(exponent)
    rng = np.random.default_rng(0)
    G = rng.standard_normal((2, 20, 40))
    A = G @ G.swapaxes(1, 2)
    w, Q = np.linalg.eigh(A)
    X = (Q * w[:, None, :] ** float(s)) @ Q.swapaxes(1, 2)
    zero = np.zeros(2)
    assert stale_error(X, pack(A), s, zero, scale_free=False).max() < 1e-10
    assert stale_error(X, pack(3 * A), s, zero, scale_free=True).max() < 1e-10
    power = -s.numerator
    np.testing.assert_allclose(stale_error(X, pack(1.1 * A), s, zero, scale_free=False), 1.1**power - 1, rtol=1e-6)
    E = rng.standard_normal((20, 20)) * 0.1
    B = A + (E + E.T)
    full = np.linalg.norm(
        np.linalg.matrix_power(X, s.denominator) @ np.linalg.matrix_power(B, power) - np.eye(20), axis=(1, 2)
    )
    ratio = stale_error(X, pack(B), s, zero, scale_free=False) / (full / np.sqrt(20))
    assert (ratio > 0.3).all()
    assert (ratio < 3).all()
