"""Schedulers, GradScaler, autocast and torch.compile around the optimizer for torch."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from matroot_optim.torch import Shampoo  # noqa: E402
from optim.test_optim_torch import OPTIONS, assert_equal, model, round_trip, train, weights  # noqa: E402


def test_schedulers():
    net = model()
    opt = Shampoo(net.parameters(), lr=0.1, graft="sgd", momentum="none")
    scheduler = torch.optim.lr_scheduler.StepLR(opt, 1, gamma=0.1)
    moves = []
    for _ in range(3):
        for p in net.parameters():
            p.grad = torch.zeros_like(p)
        bias = net[0].bias
        bias.grad = torch.ones_like(bias)
        before = bias.detach().clone()
        opt.step()
        scheduler.step()
        moves.append(float((before - bias.detach()).mean()))
    np.testing.assert_allclose(moves, [0.1, 0.01, 0.001], rtol=1e-3)


def test_one_cycle_changes_momentum_and_decay_of_the_statistics_may_change():
    net = model()
    opt = Shampoo(net.parameters(), **OPTIONS)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(opt, 0.01, total_steps=20)
    for k in range(10):
        train(net, opt, 1, k)
        scheduler.step()
    opt.param_groups[0]["betas"] = (0.9, 0.99)
    train(net, opt, 3, 10)
    assert all(bool(p.isfinite().all()) for p in net.parameters())
    assert opt.diagnostics().step == 13


@pytest.mark.filterwarnings("ignore:torch.cuda.amp")
def test_grad_scaler():
    net = model()
    opt = Shampoo(net.parameters(), **OPTIONS)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    plain_net = model()
    plain = Shampoo(plain_net.parameters(), **OPTIONS)
    for k in range(4):
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(k))
        for n, o in ((net, opt), (plain_net, plain)):
            o.zero_grad()
            loss = n(x).square().mean()
            if o is opt:
                scaler.scale(loss).backward()
                scaler.step(o)
                scaler.update()
            else:
                loss.backward()
                o.step()
    assert_equal(weights(net), weights(plain_net))
    before = weights(net)
    for p in net.parameters():
        p.grad = torch.full_like(p, torch.inf)
    scaler.step(opt)
    assert_equal(before, weights(net))


def test_options_of_a_group_that_change_on_the_way_are_followed():
    net = model()
    opt = Shampoo(net.parameters(), lr=0.01, refresh_every=1, start_step=1)
    train(net, opt, 3)
    before = opt.state_dict()["state"][0]["momentum"]
    opt.param_groups[0]["ridge"] = 0.1
    opt.param_groups[0]["lr_scale"] = 1.0  # somebody's own entry is left alone
    assert torch.equal(opt._current()["0/0/momentum"], before)
    train(net, opt, 1, 3)
    roots = opt.diagnostics().roots
    np.testing.assert_allclose(roots["ridge"] / roots["lambda_max"], 0.1, rtol=1e-6)


def test_every_scheduler_and_a_load_after_it():
    schedulers = torch.optim.lr_scheduler
    for make in (
        lambda o: schedulers.CyclicLR(o, 1e-4, 1e-2),
        lambda o: schedulers.OneCycleLR(o, 0.01, total_steps=9),
        lambda o: schedulers.SequentialLR(o, [schedulers.LinearLR(o), schedulers.ExponentialLR(o, 0.9)], [2]),
        lambda o: schedulers.ReduceLROnPlateau(o),
        lambda o: torch.optim.swa_utils.SWALR(o, 1e-3),
    ):
        net = model()
        opt = Shampoo(net.parameters(), **OPTIONS)
        scheduler = make(opt)
        for k in range(4):
            train(net, opt, 1, k)
            scheduler.step(*[1.0] * isinstance(scheduler, schedulers.ReduceLROnPlateau))
        again = Shampoo(net.parameters(), **OPTIONS)
        again.load_state_dict(round_trip(opt.state_dict()))
        train(net, again, 1, 4)
        assert again.diagnostics().step == 5


def test_a_step_inside_autocast_is_the_step_outside():
    inside, outside = model(), model()
    for net, dtype in ((inside, torch.bfloat16), (outside, None)):
        opt = Shampoo(net.parameters(), **OPTIONS)
        for _ in range(5):
            for p in net.parameters():
                p.grad = torch.ones_like(p) + p.detach()
            with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
                opt.step()
    assert_equal(weights(inside), weights(outside))


@pytest.mark.slow  # the import of the compiler
def test_a_compiled_step_is_the_step():
    """It is not cut into graphs, which would take minutes and print a dozen warnings."""
    graphs, ends = [], []
    for compiled in (False, True):
        net = model()
        opt = Shampoo(net, **OPTIONS)
        step = torch.compile(opt.step, backend=lambda graph, _: graphs.append(graph) or graph.forward)
        for k in range(6):
            opt.zero_grad()
            net(torch.linspace(0, 1 + k, 24).reshape(4, 6)).square().mean().backward()
            step() if compiled else opt.step()
        ends.append(weights(net))
    assert_equal(*ends)
    assert not graphs
