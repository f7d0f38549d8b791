"""The demonstration of the optimizer: its references, its choice of rates, and one short run of all of it."""

import time

import numpy as np
import pytest

from matroot_optim.__main__ import main
from matroot_optim.demo import run as demo


def params_of(x):
    return [{"W": np.array([x])}]


def test_sgd_is_heavy_ball():
    rule, params = demo.sgd(1.0), params_of(0.0)
    at = []
    for _ in range(3):  # gradient 1: velocities 1, 1.9, 2.71
        params = rule(params, params_of(1.0))
        at.append(params[0]["W"][0])
    np.testing.assert_allclose(at, [-1.0, -2.9, -5.61], rtol=1e-14)


def test_adam_by_hand():
    rule, params, gradients = demo.adam(0.1), params_of(0.0), (1.0, -2.0, 0.5)
    m = v = x = 0.0
    for t, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        x -= 0.1 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)) ** 0.5 + 1e-8)
        params = rule(params, params_of(g))
    np.testing.assert_allclose(params[0]["W"], [x], rtol=1e-6)  # the epsilon stands before the correction


def entry(rate, accuracies, loss=1.0):
    runs = [demo.Run("Adam", rate, [0, 5], [0.0, 0.1], [3.0, loss], list(a), [0.01, 0.02]) for a in accuracies]
    return demo.Entry(runs)


def test_a_rate_is_judged_by_the_median_of_its_starts():
    fast = entry(1e-2, [(0.1, 0.95), (0.1, 0.93), (0.1, 0.5)])
    slow = entry(1e-3, [(0.1, 0.95), (0.1, 0.5), (0.1, 0.5)], loss=0.1)
    assert fast.to_target("steps") == 5
    assert fast.to_target("seconds") == 0.1
    assert slow.to_target("steps") == np.inf
    assert demo.best([slow, fast]) is fast


def test_where_none_gets_there_the_lower_loss_is_shown_and_said_so():
    bad, good = entry(1e-2, [(0.1, 0.5)], loss=np.nan), entry(1e-3, [(0.1, 0.6)], loss=0.5)
    assert demo.best([bad, good]) is good
    assert demo.verdict([good]) == "None reached 92%."
    assert " - " in demo.table([good])


def test_who_is_first_is_said_as_it_is():
    quick = entry(1e-2, [(0.1, 0.95)])
    few = entry(1e-3, [(0.95, 0.95)])
    few.runs[0].name, few.runs[0].seconds = "Shampoo", [0.5, 1.0]
    assert demo.verdict([quick, few]).startswith("Shampoo needs the fewest steps; by the clock Adam")
    assert demo.verdict([quick]) == "Adam needs the fewest steps and the least time."


def test_a_step_that_waits_for_other_programs_is_not_slow(monkeypatch):
    monkeypatch.setattr(demo, "STEPS", demo.EVERY)
    monkeypatch.setitem(demo.METHODS, "Adam", lambda rate: lambda params, grads: time.sleep(0.1) or params)
    run = demo.run("Adam", 0.01, 0)
    assert sum(run.step_seconds) < 0.05 * demo.EVERY < 0.1 * demo.EVERY <= run.seconds[-1]


@pytest.mark.slow
def test_shampoo_needs_fewer_steps_than_adam():
    steps = {name: demo.Entry([demo.run(name, 0.01, 0)]).to_target("steps") for name in ("Adam", "Shampoo")}
    assert steps["Shampoo"] < steps["Adam"] < np.inf


@pytest.mark.slow
def test_all_of_it(monkeypatch, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(demo, "STEPS", 40)
    monkeypatch.setattr(demo, "SEEDS", 1)
    picture = tmp_path / "demo.png"
    assert main(["demo", "--figure", str(picture)]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in demo.RATES)
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("arguments", "status"), [([], 2), (["train"], 2), (["--help"], 0)])
def test_usage(arguments, status, capsys):
    assert main(arguments) == status
    captured = capsys.readouterr()
    assert "usage: python -m matroot_optim demo" in (captured.err if status else captured.out)
