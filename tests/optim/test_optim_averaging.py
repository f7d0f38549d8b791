"""Averages of the weights: schedule-free and the EMA, by hand, against the published code, in every adapter."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest

from matroot_optim import Shampoo, apply_updates
from optim.problems import SHAPES, assert_same, run

SGD = {"graft": "sgd", "momentum": "none", "preconditioned_dims": "none"}
FREE = {"averaging": "schedule_free", "averaging_beta": 0.5}


def stream(shape, steps, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for _ in range(steps)]


def test_three_steps_of_schedule_free_by_hand():
    """f(y) = y^2 / 2 from y = 1, rates 1/2, 1/4, 1/4: weights 1/4 each, c = 1, 1/2, 1/3."""
    opt = Shampoo(lambda t: 0.5 if t == 0 else 0.25, **SGD, **FREE)
    y = np.ones(1)
    state = opt.init(y)
    for z, x, new in ((0.5, 0.5, 0.5), (0.375, 0.4375, 0.40625), (0.2734375, 0.3828125, 0.328125)):
        state = opt.step(y, y.copy(), state)
        np.testing.assert_allclose([state["average"][0], y[0]], [z, new], rtol=1e-15)
        np.testing.assert_allclose(opt.averaged_parameters(y, state), [x], rtol=1e-15)
    assert state["weights"].tolist() == [0.75, 0.5]


def test_three_steps_of_the_ema_by_hand():
    opt = Shampoo(1.0, **SGD, averaging="ema", averaging_beta=0.75)
    W = np.zeros(1)
    state = opt.init(W)
    for g, want_W, want in ((1.0, -1.0, -1.0), (-2.0, 1.0, -0.5), (4.0, -3.0, -1.125)):
        state = opt.step(W, np.array([g]), state)
        assert (W.item(), opt.averaged_parameters(W, state).item()) == (want_W, want)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_schedule_free_adam_is_the_published_one(weight_decay):
    """A vector has no roots, so the inner optimizer is Adam without momentum."""
    torch = pytest.importorskip("torch")
    peer = pytest.importorskip("pytorch_optimizer")
    p = torch.nn.Parameter(torch.linspace(-1, 1, 7, dtype=torch.float64))
    W = p.detach().numpy().copy()
    other = peer.ScheduleFreeAdamW([p], 0.05, betas=(0.9, 0.99), weight_decay=weight_decay, warmup_steps=4, eps=1e-300)
    opt = Shampoo(
        lambda t: 0.05 * min(1, (t + 1) / 4), betas=(0.9, 0.99), weight_decay=weight_decay, averaging="schedule_free",
        graft_epsilon=0.0,
    )  # fmt: skip
    state = opt.init(W)
    for g in stream(7, 30):
        p.grad = torch.from_numpy(g.copy())
        other.train()
        other.step()
        state = opt.step(W, g, state)
        np.testing.assert_allclose(W, p.detach().numpy(), rtol=1e-12, atol=1e-14)
        other.eval()
        np.testing.assert_allclose(opt.averaged_parameters(W, state), p.detach().numpy(), rtol=1e-12, atol=1e-14)


@pytest.mark.slow
def test_optax_and_torch_agree_with_the_core():
    """Schedule-free in optax is optax's own, around the same direction; the EMA is compared with torch's too."""
    torch = pytest.importorskip("torch")
    jax = pytest.importorskip("jax")
    optax = pytest.importorskip("optax")
    jax.config.update("jax_disable_most_optimizations", True)
    from matroot_optim.optax import averaged_parameters, shampoo
    from matroot_optim.torch import Shampoo as Torch

    for averaging, beta in (("schedule_free", 0.9), ("ema", 0.8)):
        options = {"averaging": averaging, "averaging_beta": beta, "start_step": 2, "refresh_every": 2}
        options |= {"preconditioned_dims": "none"} if averaging == "ema" else {}
        tx = shampoo(lambda t: 0.05 / (t + 1), 0.1, **options)
        core = Shampoo(lambda t: 0.05 / (t + 1), weight_decay=0.1, **options)
        W, p = np.ones((3, 2), np.float32), torch.nn.Parameter(torch.ones(3, 2))
        theirs = Torch([p], 0.05, weight_decay=0.1, **options)
        net = torch.nn.ParameterList([p])
        peer = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(beta))
        y = jax.numpy.ones((3, 2))
        state, other, update = core.init(W), tx.init(y), jax.jit(tx.update)
        for t, g in enumerate(stream((3, 2), 5, dtype=np.float32)):
            state = core.step(W, g, state)
            updates, other = update(jax.numpy.asarray(g), other, y)
            y = optax.apply_updates(y, updates)
            p.grad, theirs.param_groups[0]["lr"] = torch.from_numpy(g), 0.05 / (t + 1)
            theirs.step()
            peer.update_parameters(net)
        average = core.averaged_parameters(W, state)
        assert abs(average - W).max() > 1e-3
        for a, b in ((y, averaged_parameters(other, y)), (p.detach(), theirs.averaged_parameters()[0])):
            np.testing.assert_allclose(a, W, rtol=2e-4, atol=1e-5)
            np.testing.assert_allclose(b, average, rtol=2e-4, atol=1e-5)
        if averaging == "ema":
            np.testing.assert_allclose(average, next(peer.parameters()).detach(), rtol=1e-6)
    with pytest.raises(ValueError, match="opt_state must hold an average"):
        averaged_parameters(optax.EmptyState(), y)


def test_without_averaging_the_average_is_the_parameters():
    opt = Shampoo(0.1)
    params, state = run(opt, 2)
    assert_same(opt.averaged_parameters(params, state), params)


@pytest.mark.parametrize("averaging", ["schedule_free", "ema"])
def test_a_resume_keeps_the_averages(tmp_path, averaging):
    opt = Shampoo(lambda t: 0.05 / (1 + t % 3), averaging=averaging, averaging_beta=0.8, refresh_every=4)
    want, last = run(opt, 12)
    params, state = run(opt, 5)
    state.save(tmp_path / "state.npz")
    again = opt.load(tmp_path / "state.npz", params)
    got, resumed = run(opt, 12, params=params, state=again, skip=5)
    assert_same(got, want)
    assert_same(opt.averaged_parameters(got, resumed), opt.averaged_parameters(want, last))


def test_an_average_may_begin_with_a_load(tmp_path):
    params, state = run(Shampoo(0.05), 5)
    state.save(tmp_path / "state.npz")
    opt = Shampoo(0.05, averaging="ema")
    again = opt.load(tmp_path / "state.npz", params)
    assert_same(opt.averaged_parameters(params, again), params)


def test_a_damaged_average_is_refused(tmp_path):
    from matroot_optim.checkpoint.exchange import export, restore

    opt = Shampoo(0.05, averaging="schedule_free")
    params, state = run(opt, 3)
    names, meta = export(state)
    for name, bad in (("a/average", np.full((6, 9), np.nan)), ("a/weights", np.array([-1.0, 0.1]))):
        with pytest.raises(ValueError, match=f"in '{name}'"):
            restore(opt, state.layout, list(params.values()), {**names, name: bad}, meta)


def test_missing_and_bad_gradients_leave_the_average():
    opt = Shampoo(0.05, averaging="schedule_free")
    params = {"a": np.ones((3, 4)), "b": np.ones(2)}
    state = opt.init(params)
    for bad in (None, np.full((3, 4), np.nan)):
        updates, state = opt.update({"a": bad, "b": np.ones(2)}, state, params)
        params = apply_updates(params, updates)
    assert (params["a"] == 1).all()
    assert (state["a/average"] == 1).all()
    assert (params["b"] < 1).all()
    with pytest.raises(ValueError, match=r"params must be given for .* averages"):
        opt.update({"a": np.ones((3, 4)), "b": np.ones(2)}, state)


def test_schedule_free_takes_the_memory_of_the_momentum():
    sizes = {
        a: Shampoo(0.1, averaging=a).plan(dict.fromkeys("ab", np.zeros((8, 8)))) for a in ("none", "schedule_free")
    }
    assert sizes["none"].state_bytes == sizes["schedule_free"].state_bytes
    more = Shampoo(0.1, averaging="ema").plan(dict.fromkeys("ab", np.zeros((8, 8)))).state_bytes
    assert more == sizes["none"].state_bytes + 2 * 8 * 64


class TestTorch:
    def train(self, net, opt, steps, start=0):
        torch = pytest.importorskip("torch")
        for k in range(start, start + steps):
            x = torch.randn(16, 6, generator=torch.Generator().manual_seed(k))
            opt.zero_grad()
            (net(x) - x[:, :2]).square().mean().backward()
            opt.step()

    def pair(self, **options):
        torch = pytest.importorskip("torch")
        from matroot_optim.torch import Shampoo as Torch

        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.Tanh(), torch.nn.Linear(9, 2))
        return net, Torch(net, lr=0.02, refresh_every=3, **options)

    @pytest.mark.parametrize("averaging", ["schedule_free", "ema"])
    def test_evaluation_does_not_change_the_training(self, averaging):
        torch = pytest.importorskip("torch")
        net, opt = self.pair(averaging=averaging, averaging_beta=0.8)
        other, plain = self.pair(averaging=averaging, averaging_beta=0.8)
        self.train(other, plain, 8)
        self.train(net, opt, 4)
        averages = opt.averaged_parameters()
        opt.eval()
        opt.eval()
        assert all(torch.equal(p, x) for p, x in zip(net.parameters(), averages, strict=True))
        for refused in (opt.step, opt.state_dict, opt.averaged_parameters, lambda: opt.load_state_dict({})):
            with pytest.raises(RuntimeError, match=r"call train\(\) first"):
                refused()
        opt.train()
        self.train(net, opt, 4, 4)
        assert all(torch.equal(p, q) for p, q in zip(net.parameters(), other.parameters(), strict=True))

    def test_the_state_dict_has_them(self):
        torch = pytest.importorskip("torch")
        net, opt = self.pair(averaging="schedule_free")
        self.train(net, opt, 4)
        file = io.BytesIO()
        torch.save([net.state_dict(), opt.state_dict()], file)
        file.seek(0)
        other, again = self.pair(averaging="schedule_free")
        weights, state = torch.load(file, weights_only=True)
        other.load_state_dict(weights)
        again.load_state_dict(state)
        twin, copied = copy.deepcopy((net, opt))
        for n, o in ((net, opt), (other, again), (twin, copied)):
            self.train(n, o, 3, 4)
        for q in (other, twin):
            assert all(torch.equal(a, b) for a, b in zip(net.parameters(), q.parameters(), strict=True))

    def test_groups_may_differ(self):
        torch = pytest.importorskip("torch")
        from matroot_optim.torch import Shampoo as Torch

        a, b = (torch.nn.Parameter(torch.ones(3, 3)) for _ in range(2))
        opt = Torch([{"params": [a], "averaging": "ema"}, {"params": [b]}], lr=0.1)
        for _ in range(3):
            a.grad, b.grad = torch.ones(3, 3), torch.ones(3, 3)
            opt.step()
        averages = opt.averaged_parameters()
        assert not torch.equal(averages[0], a)
        assert torch.equal(averages[1], b)
        assert "average" in opt.state[a]
        assert "average" not in opt.state[b]


def test_optax_refuses_what_only_a_whole_optimizer_has():
    pytest.importorskip("optax")
    from matroot_optim.optax import scale_by_shampoo, shampoo

    for option in ({"averaging": "ema"}, {"hyperball": True}, {"cautious_decay": True}):
        with pytest.raises(ValueError, match="must be given to shampoo or soap"):
            scale_by_shampoo(**option)
        with pytest.raises(ValueError, match=r"under optax; use optax.multi_transform"):
            shampoo(0.1, groups=lambda path, option=option: option).init({k: np.ones(s) for k, s in SHAPES.items()})
