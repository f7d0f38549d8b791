"""The torch adapter: an optimizer like any other of torch."""

from __future__ import annotations

import copy
import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import matroot_optim  # noqa: E402
from matroot_optim import ExecutorEngine, InlineEngine  # noqa: E402
from matroot_optim.torch import Shampoo  # noqa: E402

OPTIONS = {"lr": 0.01, "refresh_every": 3, "block_size": 4}


def model(dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.Tanh(), torch.nn.Linear(9, 2)).to(dtype)


def train(net, opt, steps, start=0):
    for k in range(start, start + steps):
        x = torch.randn(16, 6, generator=torch.Generator().manual_seed(k)).to(next(net.parameters()).dtype)
        opt.zero_grad()
        loss = (net(x) - x[:, :2].sin()).square().mean()
        loss.backward()
        opt.step()
    return float(loss.detach())


def weights(net):
    return [p.detach().clone() for p in net.parameters()]


def assert_equal(a, b):
    for x, y in zip(a, b, strict=True):
        assert torch.equal(x, y)


def test_it_trains():
    net = model()
    opt = Shampoo(net.parameters(), **OPTIONS)
    first = train(net, opt, 1)
    assert train(net, opt, 150, 1) < 0.3 * first


def test_same_numbers_as_the_core():
    net = model(torch.float64)
    opt = Shampoo(net.parameters(), weight_decay=0.1, **OPTIONS)
    core = matroot_optim.Shampoo(0.01, weight_decay=0.1, refresh_every=3, block_size=4)
    params = [p.detach().numpy().copy() for p in net.parameters()]
    state = core.init(params)
    for k in range(10):
        rng = np.random.default_rng(k)
        grads = [rng.standard_normal(p.shape) for p in params]
        for p, g in zip(net.parameters(), grads, strict=True):
            p.grad = torch.from_numpy(g.copy())
        opt.step()
        updates, state = core.update(grads, state, params)
        params = matroot_optim.apply_updates(params, updates)
    for p, want in zip(net.parameters(), params, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), want, rtol=1e-9, atol=1e-11)


def test_closure():
    net = model()
    opt = Shampoo(net.parameters(), lr=0.01)
    x = torch.ones(3, 6)

    def closure():
        opt.zero_grad()
        loss = net(x).square().mean()
        loss.backward()
        return loss

    first, second = (float(opt.step(closure).detach()) for _ in range(2))
    assert first > second


def test_gradients_are_not_modified():
    net = model()
    opt = Shampoo(net.parameters(), lr=0.01, weight_decay=0.1, decay="l2", momentum="none", graft="sgd", clip_norm=0.1)
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    opt.step()
    assert all(bool((p.grad == 1).all()) for p in net.parameters())


def test_groups():
    net = model()
    opt = Shampoo(
        [
            {"params": net[0].parameters(), "lr": 0.0, "block_size": 3},
            {"params": net[2].parameters(), "weight_decay": 0.1, "graft": "sgd"},
        ],
        lr=0.1,
    )
    before = weights(net)
    train(net, opt, 3)
    after = weights(net)
    assert_equal(before[:2], after[:2])
    assert not torch.equal(before[2], after[2])
    with pytest.raises(TypeError, match=r"a parameter group has .bloksize.; did you mean .block_size.\?"):
        Shampoo([{"params": net.parameters(), "bloksize": 3}], lr=0.1)
    with pytest.raises(ValueError, match="block_size must be an int >= 1, got 0"):
        Shampoo(net.parameters(), lr=0.1, block_size=0)
    with pytest.raises(TypeError, match="block_siez"):
        Shampoo(net.parameters(), lr=0.1, block_siez=0)
    with pytest.raises(TypeError, match="parameter groups"):
        Shampoo(net.parameters(), lr=0.1, groups=lambda path: None)


def test_add_param_group_keeps_the_old_state():
    a, b = model(), model()
    opts = [Shampoo(list(net[0].parameters()), **OPTIONS) for net in (a, b)]
    for net, opt in zip((a, b), opts, strict=True):
        train(net, opt, 5)
    opts[1].add_param_group({"params": list(b[2].parameters()), "lr": 0.0})
    for net, opt in zip((a, b), opts, strict=True):
        train(net, opt, 5, 5)
    assert_equal(weights(a), weights(b))


def test_missing_gradients_and_frozen_parameters():
    net = model()
    net[0].bias.requires_grad_(False)
    opt = Shampoo(net.parameters(), **OPTIONS)
    frozen = net[0].bias.clone()
    train(net, opt, 2)
    net[2].bias.grad = None
    kept = net[2].bias.detach().clone()
    opt.step()
    assert torch.equal(net[0].bias, frozen)
    assert torch.equal(net[2].bias, kept)


def test_sparse_gradients_are_refused():
    net = torch.nn.Embedding(5, 3, sparse=True)
    opt = Shampoo(net.parameters(), lr=0.1)
    net(torch.tensor([1])).sum().backward()
    with pytest.raises(TypeError, match="the gradient of parameter '0/0' must be dense"):
        opt.step()


def test_nonfinite_gradients_skip_one_tensor():
    net = model()
    opt = Shampoo(net.parameters(), **OPTIONS)
    train(net, opt, 4)
    before = weights(net)
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    net[0].weight.grad[0, 0] = torch.nan
    opt.step()
    assert torch.equal(net[0].weight, before[0])
    assert not torch.equal(net[2].weight, before[2])
    assert opt.diagnostics().nonfinite == {"0/0": 1, "0/1": 0, "0/2": 0, "0/3": 0}


def round_trip(state_dict):
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("lag", [0, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_resume_is_bit_exact(dtype, lag):
    with ExecutorEngine(lambda: ThreadPoolExecutor(2), lag=lag) as engine:
        net = model(dtype)
        opt = Shampoo(net.parameters(), engine=engine, **OPTIONS)
        train(net, opt, 7)
        saved, params = round_trip(opt.state_dict()), copy.deepcopy(net.state_dict())
        train(net, opt, 7, 7)
    other = model(dtype, seed=1)
    again = Shampoo(other.parameters(), engine=InlineEngine(lag), **OPTIONS)
    other.load_state_dict(params)
    again.load_state_dict(saved)
    train(other, again, 7, 7)
    assert_equal(weights(net), weights(other))


def test_bfloat16_parameters_have_float32_state():
    net = model(torch.bfloat16)
    opt = Shampoo(net.parameters(), **OPTIONS)
    train(net, opt, 4)
    saved = round_trip(opt.state_dict())["state"][0]
    arrays = {name: x.dtype for name, x in saved.items() if name.endswith(("statistic", "root", "moment", "momentum"))}
    assert arrays
    assert set(arrays.values()) == {torch.float32}
    other = Shampoo(net.parameters(), **OPTIONS)
    other.load_state_dict(opt.state_dict())
    for name, x in other.state_dict()["state"][0].items():
        assert torch.equal(x, saved[name]), name


def test_a_state_dict_of_another_optimizer_is_refused():
    net = model()
    adam = torch.optim.Adam(net.parameters())
    train(net, adam, 1)
    with pytest.raises((ValueError, TypeError), match=r"matroot_optim|must set lr"):
        Shampoo(net.parameters(), lr=0.1).load_state_dict(adam.state_dict())


def test_deep_copy():
    net = model()
    opt = Shampoo(net.parameters(), **OPTIONS)
    train(net, opt, 4)
    net2, opt2 = copy.deepcopy((net, opt))
    train(net, opt, 4, 4)
    train(net2, opt2, 4, 4)
    assert_equal(weights(net), weights(net2))


def test_large_convolution_and_tied_weights():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(72, 2))
    opt = Shampoo(net.parameters(), lr=0.01)
    for _ in range(12):
        opt.zero_grad()
        net(torch.ones(2, 3, 5, 5)).square().sum().backward()
        opt.step()
    assert all(bool(p.isfinite().all()) for p in net.parameters())
    assert opt.diagnostics().worst_residual < 0.1


def test_another_block_size_after_a_load():
    net = model()
    opt = Shampoo(net.parameters(), lr=0.01, refresh_every=2)
    train(net, opt, 5)
    again = Shampoo(net.parameters(), lr=0.01, refresh_every=2)
    again.load_state_dict(round_trip(opt.state_dict()))
    again.param_groups[0]["block_size"] = 4
    moment = opt._current()["0/0/moment"].clone()
    assert torch.equal(again._current()["0/0/moment"], moment)
    assert "0/0/block5/axis0/root" in again._current()
    train(net, again, 3, 5)
    assert again.diagnostics().worst_residual < 1e-5


def test_repr_shows_options_alone():
    shown = repr(Shampoo(model(), **OPTIONS))
    assert "lr: 0.01" in shown and "matroot_optim" not in shown
