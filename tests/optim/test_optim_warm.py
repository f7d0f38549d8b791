"""Roots that go on from the last ones."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from matroot_optim import RootBatch, Shampoo, WarmEngine
from matroot_optim.refresh.jobs import compute
from matroot_optim.step.statistics import pack, unpack
from optim.problems import assert_same, run


def batches(ridge=1e-3, count=6):
    """A stack of statistics under an EMA of 0.999, some steps apart, far from its start."""
    rng = np.random.default_rng(0)
    G = rng.standard_normal((2, 160, 800)) * np.geomspace(1, 1e-1, 160)[:, None]
    A = G @ G.swapaxes(1, 2) / 800
    for _ in range(count):
        yield RootBatch(pack(A), Fraction(-1, 4), ridge, "auto", "float64", (("a", b""),))
        g = rng.standard_normal((2, 160, 640)) * np.geomspace(1, 1e-1, 160)[:, None]
        A = 0.99 * A + 0.01 * g @ g.swapaxes(1, 2) / 640


def test_warm_roots_are_within_their_bound():
    engine = WarmEngine(rtol=1e-2)
    for batch in batches():
        X, want = unpack(engine.collect(engine.submit(batch)).root), unpack(compute(batch).root)
        error = np.linalg.norm(X - want, 2, axis=(1, 2)) / np.linalg.norm(want, 2, axis=(1, 2))
        assert error.max() <= 1e-2
    assert engine.counts["first order"] > engine.counts["full"] >= 2, engine.counts
    assert engine.counts["failed"] == 0


def test_a_power_of_the_root_is_within_rtol():
    engine = WarmEngine(rtol=1e-2)
    for batch in batches(count=4):
        batch = replace(batch, exponent=Fraction(-3, 4))
        X, want = unpack(engine.collect(engine.submit(batch)).root), unpack(compute(batch).root)
        error = np.linalg.norm(X - want, 2, axis=(1, 2)) / np.linalg.norm(want, 2, axis=(1, 2))
        assert error.max() <= 1e-2
    (_, tracker), *_ = engine._trackers.values()
    assert (1 + tracker.rtol) ** 3 == pytest.approx(1.01)


def test_a_raised_ridge_starts_anew():
    engine = WarmEngine()
    for ridge in (1e-3, 1e-2, 1e-3):
        batch = next(batches(ridge))
        engine.submit(batch)
        np.testing.assert_allclose(
            engine.collect(engine.submit(batch)).facts["ridge"], compute(batch).facts["ridge"], rtol=1e-6
        )


def test_small_blocks_are_those_of_the_inline_engine():
    options = {"refresh_every": 4, "block_size": 4, "ridge": 1e-3}
    assert_same(run(Shampoo(0.05, engine=WarmEngine(), **options))[0], run(Shampoo(0.05, **options))[0])


def test_options_are_checked():
    with pytest.raises(ValueError, match="rtol must be a number in"):
        WarmEngine(rtol=2.0)
    with pytest.raises(ValueError, match="lag must be an int"):
        WarmEngine(-1)
