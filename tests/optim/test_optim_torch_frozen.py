"""Frozen parameters of the torch adapter: without a state until they are thawed."""

from __future__ import annotations

import copy
import warnings

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict  # noqa: E402

from matroot_optim.torch import Shampoo  # noqa: E402

OPTIONS = {"lr": 0.01, "refresh_every": 2}


def net(frozen=True):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3))
    model[0].requires_grad_(not frozen)
    return model


def train(model, opt, start, stop):
    for k in range(start, stop):
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(k))
        opt.zero_grad()
        (model(x) - x[:, :3].sin()).square().mean().backward()
        opt.step()


def assert_same(model, other):
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_frozen_parameter_has_no_state_and_changes_no_number():
    model, other = net(), net()
    opt, alone = Shampoo(model, **OPTIONS), Shampoo(list(other.parameters())[2:], **OPTIONS)
    train(model, opt, 0, 6)
    train(other, alone, 0, 6)
    assert_same(model, other)
    assert len(opt.state) == len(opt.state_dict()["state"]) == len(opt.plan().rows) == 4
    for p in model[0].parameters():
        assert p not in opt.state
        assert dict(opt.state[p]) == {}
    assert opt.plan().state_bytes == alone.plan().state_bytes


def test_a_thawed_parameter_begins_with_its_own_counts_and_the_others_go_on():
    model = net()
    opt = Shampoo(model, **OPTIONS)
    train(model, opt, 0, 6)
    held = opt.state[model[2].weight]["momentum"].clone()
    model[0].requires_grad_(True)
    other = copy.deepcopy(model)
    adam = torch.optim.AdamW(other[0].parameters(), lr=0.01, weight_decay=0.0)  # the first steps are Adam's
    assert torch.equal(opt.state[model[2].weight]["momentum"], held)
    train(model, opt, 6, 7)
    train(other, adam, 6, 7)
    assert torch.allclose(model[0].weight, other[0].weight, atol=1e-6)
    counts = [int(opt.state[layer.weight]["count"]) for layer in (model[0], model[2])]
    assert counts == [1, 7]
    model[0].requires_grad_(False)  # and keeps its state from then on
    train(model, opt, 7, 8)
    assert int(opt.state[model[0].weight]["count"]) == 1


def test_a_gradient_given_by_hand_counts():
    model = net()
    opt = Shampoo(model, **OPTIONS)
    model[0].bias.grad = torch.ones(12)
    before = model[0].bias.clone()
    opt.step()
    assert not torch.equal(model[0].bias, before)
    assert len(opt.state) == 5


@pytest.mark.parametrize("thawed", [False, True], ids=["before", "after"])
def test_checkpoints_before_and_after_the_thaw(thawed):
    model = net()
    opt = Shampoo(model, **OPTIONS)
    train(model, opt, 0, 5)
    if thawed:
        model[0].requires_grad_(True)
        train(model, opt, 5, 9)
    other = copy.deepcopy(model)
    again = Shampoo(other, **OPTIONS)
    saved = opt.state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again.load_state_dict(saved)
    for each, its in ((model, opt), (other, again)):
        train(each, its, 9, 11)
        each[0].requires_grad_(True)
        train(each, its, 11, 15)
    assert_same(model, other)
    assert len(again.state) == 6
    fresh = Shampoo(net(frozen=False), **OPTIONS)
    if thawed:
        fresh.load_state_dict(saved)
    else:
        with pytest.warns(UserWarning, match=r"no state for 0\.weight, 0\.bias; they start afresh"):
            fresh.load_state_dict(saved)
    fresh = Shampoo(net(), **OPTIONS)
    fresh.load_state_dict(saved)
    assert len(fresh.state) == (6 if thawed else 4)
    del saved["state"][3]
    with pytest.raises(ValueError, match=r"it lacks '2\.bias'"):
        fresh.load_state_dict(saved)


def test_the_checkpoints_of_torch():
    model = net()
    opt = Shampoo(model, **OPTIONS)
    train(model, opt, 0, 5)
    other = copy.deepcopy(model)
    again = Shampoo(other, **OPTIONS)
    set_optimizer_state_dict(other, again, get_optimizer_state_dict(model, opt))
    for each, its in ((model, opt), (other, again)):
        each[0].requires_grad_(True)
        train(each, its, 5, 9)
    assert_same(model, other)


def test_entries_of_other_code_stay():
    model = net()
    opt = Shampoo(model, **OPTIONS)
    opt.state[model[0].weight]["slow"] = torch.ones(2)
    train(model, opt, 0, 3)
    assert model[0].weight in opt.state
    again = Shampoo(model, **OPTIONS)
    again.load_state_dict(opt.state_dict())
    assert dict(again.state[model[0].weight]).keys() == {"slow"}
    model[0].requires_grad_(True)
    train(model, again, 3, 4)
    assert {"slow", "momentum"} <= dict(again.state[model[0].weight]).keys()


def test_averages_of_frozen_parameters_are_the_parameters():
    model = net()
    opt = Shampoo(model, averaging="ema", **OPTIONS)
    train(model, opt, 0, 3)
    averages = opt.averaged_parameters()
    assert len(averages) == 6
    assert torch.equal(averages[0], model[0].weight)
    assert not torch.equal(averages[2], model[2].weight)
    before = copy.deepcopy(model)
    opt.eval()
    opt.train()
    assert_same(model, before)


def test_an_optimizer_of_frozen_parameters_alone():
    model = net().requires_grad_(False)
    opt = Shampoo(model, **OPTIONS)
    opt.step()
    assert not len(opt.state)
    opt.load_state_dict(opt.state_dict())
    copy.deepcopy(opt).step()
    model.requires_grad_(True)
    train(model, opt, 0, 2)
    assert len(opt.state) == 6


def test_a_parameter_that_changes_places_with_a_frozen_one():
    """It has the rate of its new group, and its own entries in a dict."""
    trained, frozen = (torch.nn.Parameter(torch.ones(shape)) for shape in ((6, 8), (4, 3)))
    frozen.requires_grad_(False)
    opt = Shampoo([{"params": [trained], "lr": 0.1}, {"params": [frozen], "lr": 1e-6}], graft="sgd", momentum="none")

    def moved():
        before, trained.grad = trained.detach().clone(), torch.ones(6, 8)
        opt.step()
        return float((before - trained.detach()).max())

    assert moved() == pytest.approx(0.1, rel=1e-3)
    for group, p in zip(opt.param_groups, (frozen, trained), strict=True):
        group["params"] = [p]
    assert moved() == pytest.approx(1e-6, rel=0.1)
    saved = opt.state_dict()
    assert [*saved["state"]] == [1] and int(saved["state"][1]["step"]) == 2
    Shampoo(opt.param_groups, graft="sgd", momentum="none").load_state_dict(saved)
