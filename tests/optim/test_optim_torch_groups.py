"""Parameter groups of torch: what may be in them, and what their values mean."""

from __future__ import annotations

import io
from fractions import Fraction

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from matroot_optim import InlineEngine  # noqa: E402
from matroot_optim.torch import Shampoo  # noqa: E402


def tensors(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [torch.nn.Parameter(torch.from_numpy(rng.standard_normal(s).astype("f4"))) for s in shapes]


def step(opt, seed=0, steps=1):
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        for group in opt.param_groups:
            for p in group["params"]:
                p.grad = torch.from_numpy(rng.standard_normal(p.shape).astype("f4"))
        opt.step()
    return [p.detach().clone() for group in opt.param_groups for p in group["params"]]


def assert_equal(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert torch.equal(x, y)


FOREIGN = {
    "lr_scale": 0.5,
    "layer_decay": 0.9,
    "weight_decay_mult": 0.0,
    "no_weight_decay": True,
    "max_momentum": 0.95,
    "initial_lr": 0.1,
    "swa_lr": 0.1,
    "group_name": "head",
    "fix_step": None,
    "layer_id": 3,
    "use_muon": False,
    "differentiable": False,
}


def test_entries_of_others_are_kept():
    opt = Shampoo([{"params": tensors((3, 2)), **FOREIGN}], lr=0.1)
    step(opt)
    for name, value in FOREIGN.items():
        assert opt.param_groups[0][name] == value
    again = Shampoo(tensors((3, 2)), lr=0.1)
    again.load_state_dict(opt.state_dict())
    assert FOREIGN.items() <= again.param_groups[0].items()


NEAR = {
    "block_siez": "block_size",
    "bloksize": "block_size",
    "beta2": "betas",
    "weight_decy": "weight_decay",
    "graft_eps": "graft_epsilon",
    "refresh_evry": "refresh_every",
    "learning_rate": "lr",
}


@pytest.mark.parametrize("name", NEAR)
def test_near_misses_of_our_names_are_refused(name):
    with pytest.raises(TypeError, match=f"{name!r}; did you mean {NEAR[name]!r}"):
        Shampoo([{"params": tensors((3, 2)), name: 3}], lr=0.1)
    with pytest.raises(TypeError, match=f"no option {name!r}; did you mean {NEAR[name]!r}"):
        Shampoo(tensors((3, 2)), lr=0.1, **{name: 3})


def test_a_keyword_that_is_nothing_like_an_option_gets_the_list():
    with pytest.raises(TypeError, match=r"no option 'zebra'; the options are .*block_size"):
        Shampoo(tensors((3, 2)), lr=0.1, zebra=True)


@pytest.mark.parametrize("wrong", [{"block_size": 0}, {"lr": -1.0}, {"betas": (2.0, 0.9)}])
def test_values_of_a_group_are_checked_when_it_comes(wrong):
    opt = Shampoo(tensors((3, 2)), lr=0.1)
    for make in (lambda group: Shampoo([group], lr=0.1), opt.add_param_group):
        with pytest.raises(ValueError, match="must be"):
            make({"params": tensors((3, 2)), **wrong})
    assert len(opt.param_groups) == 1
    step(opt)


def test_a_rate_that_is_a_function_names_schedulers():
    for make in (
        lambda: Shampoo(tensors((2, 2)), lr=lambda _: 0.1),
        lambda: Shampoo([{"params": tensors((2, 2)), "lr": max}]),
    ):
        with pytest.raises(TypeError, match=r"lr must be a number, got .*; use a scheduler"):
            make()


NUMBERS = [np.float32(0.25), np.float64(0.25), torch.tensor(0.25), np.array(0.25), Fraction(1, 4), 0.25]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda x: type(x).__name__)
def test_numbers_of_any_kind(number):
    want = step(Shampoo(tensors((3, 2), (4,)), lr=0.25, weight_decay=0.25, betas=(0.25, 0.5), ridge=0.25), steps=3)
    options = {"lr": number, "weight_decay": number, "betas": (number, 0.5), "ridge": number}
    assert_equal(step(Shampoo(tensors((3, 2), (4,)), **options), steps=3), want)
    opt = Shampoo([{"params": tensors((3, 2), (4,)), **options}])
    assert_equal(step(opt, steps=3), want)
    file = io.BytesIO()
    torch.save(opt.state_dict(), file)
    file.seek(0)
    again = Shampoo(tensors((3, 2), (4,)))
    again.load_state_dict(torch.load(file, weights_only=True))
    assert float(again.param_groups[0]["lr"]) == 0.25
    assert_equal(
        step(Shampoo(tensors((3, 2)), lr=1, weight_decay=1)), step(Shampoo(tensors((3, 2)), lr=1.0, weight_decay=1.0))
    )


def test_a_scheduler_fills_a_rate_that_is_a_tensor():
    rate = torch.tensor(0.5)
    opt = Shampoo(tensors((3, 2)), lr=rate, graft="sgd", momentum="none")
    scheduler = torch.optim.lr_scheduler.StepLR(opt, 1, gamma=0.5)
    other = Shampoo(tensors((3, 2)), lr=0.5, graft="sgd", momentum="none")
    step(opt), step(other)
    scheduler.step()
    other.param_groups[0]["lr"] = 0.25
    assert_equal(step(opt), step(other))


def test_options_of_the_whole_in_groups_that_agree():
    want = step(Shampoo(tensors((6, 4), (3,)), lr=0.1, refresh_every=3, clip_norm=0.5), steps=7)
    a, b = tensors((6, 4), (3,))
    shared = {"refresh_every": 3, "clip_norm": np.float64(0.5)}
    opt = Shampoo([{"params": [a], **shared}, {"params": [b], **shared}], lr=0.1)
    assert_equal(step(opt, steps=7), want)
    assert_equal(step(Shampoo([{"params": tensors((6, 4), (3,)), **shared}], lr=0.1), steps=7), want)
    with pytest.raises(ValueError, match="refresh_every must be the same in all parameter groups, got 3, 10"):
        Shampoo([{"params": tensors((3, 2)), "refresh_every": 3}, {"params": tensors((3,))}], lr=0.1)
    with pytest.raises(ValueError, match="engine must be the same"):
        opt.add_param_group({"params": tensors((3,)), "engine": InlineEngine(2)})
    opt.add_param_group({"params": tensors((3,)), "refresh_every": 3})
    with pytest.raises(ValueError, match="refresh_every must be an int"):
        Shampoo([{"params": tensors((3, 2)), "refresh_every": 0}], lr=0.1)
    with pytest.raises(TypeError, match="parameter groups"):
        Shampoo([{"params": tensors((3, 2)), "groups": None}], lr=0.1)


def test_an_option_of_the_whole_that_is_changed_on_the_way_is_followed():
    opt, other = (Shampoo(tensors((6, 4)), lr=0.1, refresh_every=every) for every in (5, 2))
    opt.param_groups[0]["refresh_every"] = 2
    assert_equal(step(opt, steps=6), step(other, steps=6))


def test_options_of_the_optimizer_outlast_an_older_dict():
    opt = Shampoo(tensors((6, 4)), lr=0.1, block_size=2)
    saved = opt.state_dict()
    for group in saved["param_groups"]:
        del group["block_size"]
    again = Shampoo(tensors((6, 4)), lr=0.1, block_size=3)
    again.load_state_dict(saved)
    assert again.param_groups[0]["block_size"] == 3


def test_options_that_do_not_fit_the_tensors_of_a_late_group_are_refused_when_it_comes():
    """Not at the next step, and at every one after it."""
    opt = Shampoo([torch.nn.Parameter(torch.ones(4, 3))], refresh_every=1)
    new = torch.nn.Parameter(torch.ones(5, 3))
    with pytest.raises(ValueError, match=r"split must give parts of dimension 0 of the merged shape \(5, 3\)"):
        opt.add_param_group({"params": [new], "split": 2})
    assert len(opt.param_groups) == 1
    opt.add_param_group({"params": [new], "split": (2, 3)})
    new.grad = torch.ones(5, 3)
    opt.step()
    assert (new < 1).all()


@pytest.mark.parametrize(
    "name, value",
    [
        ("lr", float("nan")),
        ("lr", -1e-3),
        ("lr", torch.tensor(float("inf"))),
        ("lr", lambda step: 0.1),
        ("betas", (1.0, 0.999)),
        ("betas", (float("nan"), 0.999)),
        ("betas", 0.9),
        ("betas", (0.9,)),
        ("betas", None),
        ("weight_decay", -0.1),
        ("weight_decay", float("nan")),
        ("weight_decay", None),
    ],
)
def test_numbers_that_change_in_mid_run_are_checked(name, value):
    """A scheduler that divides 0 by 0 must not make the weights NaN."""
    p = torch.nn.Parameter(torch.ones(3, 2))
    opt = Shampoo([p], lr=0.1)
    p.grad = torch.ones(3, 2)
    opt.step()
    before, good = p.detach().clone(), opt.param_groups[0][name]
    opt.param_groups[0][name] = value
    with pytest.raises((TypeError, ValueError), match=f"{name} must be"):
        opt.step()
    opt.param_groups[0][name] = good
    assert torch.equal(p, before)
    assert int(opt.state[p]["step"]) == 1
    opt.step()


@pytest.mark.parametrize("kind", [torch.tensor, np.array])
def test_a_rate_of_one_element_may_have_a_dimension(kind):
    moved = []
    for lr, later in ((0.1, 0.2), (kind([0.1]), kind([0.2]))):
        p = torch.nn.Parameter(torch.ones(3, 2))
        opt = Shampoo([p], lr=lr)
        for new in (later, later):
            p.grad = torch.ones(3, 2)
            opt.step()
            opt.param_groups[0]["lr"] = new
        opt.load_state_dict(opt.state_dict())
        p.grad = torch.ones(3, 2)
        opt.step()
        moved.append(p.detach())
    torch.testing.assert_close(*moved, rtol=1e-6, atol=0)  # a tensor's rate is a float32
    with pytest.raises(ValueError, match=r"lr must be a number >= 0, got .*\[0\.1"):
        Shampoo([torch.nn.Parameter(torch.ones(3))], lr=kind([0.1, 0.2]))
