"""The state of the torch adapter: whose it is, how it looks, and what a damaged or a partial dict does."""

from __future__ import annotations

import collections
import copy
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from matroot_optim.torch import Shampoo  # noqa: E402

OPTIONS = {"lr": 0.1, "refresh_every": 2, "block_size": 4}


def tensors(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [torch.nn.Parameter(torch.from_numpy(rng.standard_normal(s).astype("f4"))) for s in shapes]


def step(opt, seed=0, steps=1, zero=False):
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        for group in opt.param_groups:
            for p in group["params"]:
                g = rng.standard_normal(p.shape).astype("f4")
                p.grad = torch.from_numpy(g * (not zero))
        opt.step()


def entries(opt, p):
    return {name: x.clone() for name, x in opt.state[p].items()}


def assert_same(a, b, leave=()):
    assert a.keys() == b.keys()
    for name, x in a.items():
        assert name in leave or torch.equal(x, b[name]), name


# Whose it is.


def test_a_tensor_in_the_place_of_another_starts_afresh():
    a, b = tensors((6, 5), (6, 5))
    opt = Shampoo([a], **OPTIONS)
    step(opt, steps=5)
    opt.param_groups[0]["params"][0] = b
    before = b.detach().clone()
    step(opt, zero=True)
    assert torch.equal(b, before)
    assert int(opt.state[b]["count"]) == 1
    assert not opt.state[b]["momentum"].any()


def test_a_tensor_that_starts_afresh_leaves_the_roots_of_its_stack_alone():
    """Its first root and the next one of another tensor come in one batch, as two jobs of one stack."""
    params = tensors((4, 4), (4, 4))
    opt = Shampoo(params, **{**OPTIONS, "refresh_every": 1, "schedule": "interval", "start_step": 1})
    step(opt, steps=5)
    del opt.state[params[1]]
    step(opt, seed=1)
    arrays = opt._current().arrays
    for axis in (0, 1):
        assert arrays[f":stack0/axis{axis}/taken"].tolist() == [6, 6]
        assert arrays[f":stack0/axis{axis}/refreshes"].tolist() == [6, 1]


def test_a_tensor_that_moves_takes_its_own_along():
    a, b, c = tensors((6, 5), (6, 5), (5,))
    opt = Shampoo([{"params": [a, b]}, {"params": [c], "block_size": 3}], **OPTIONS)
    step(opt, steps=5)
    before = {p: entries(opt, p) for p in (a, b, c)}
    opt.param_groups[0]["params"], opt.param_groups[1]["params"] = [b], [c, a]
    assert_same(entries(opt, b), before[b])
    assert_same(entries(opt, c), before[c])
    assert torch.equal(opt.state[a]["momentum"], before[a]["momentum"])
    opt.param_groups[0]["params"], opt.param_groups[1]["params"] = [b, a], [c]
    opt.param_groups[1]["block_size"] = 4
    for p in (a, b, c):
        assert torch.equal(opt.state[p]["moment"], before[p]["moment"])


def test_the_order_in_a_group_changes_nothing():
    runs = []
    for swap in (False, True):
        a, b = tensors((6, 5), (6, 5))
        opt = Shampoo([a, b], **OPTIONS)
        rng = np.random.default_rng(1)
        for k in range(8):
            for p in (a, b):
                p.grad = torch.from_numpy(rng.standard_normal(p.shape).astype("f4"))
            if swap and k == 4:
                opt.param_groups[0]["params"].reverse()
            opt.step()
        runs.append((a, b))
    for x, y in zip(*runs, strict=True):
        assert torch.equal(x, y)


def test_a_tensor_that_comes_back_has_what_it_had():
    a, b = tensors((6, 5), (5,))
    opt = Shampoo([a, b], **OPTIONS)
    step(opt, steps=5)
    before = entries(opt, a)
    opt.param_groups[0]["params"] = [b]
    step(opt, steps=2)
    opt.param_groups[0]["params"] = [b, a]
    assert_same(entries(opt, a), before, leave=("step",))


def test_a_state_that_is_handed_over():
    a, b = tensors((6, 5), (6, 5))
    opt = Shampoo([a], **OPTIONS)
    step(opt, steps=5)
    before = entries(opt, a)
    stored = opt.state.get(a)
    del opt.state[a]
    opt.param_groups[0]["params"][0] = b
    opt.state[b] = stored
    assert_same(entries(opt, b), before)
    with pytest.raises(KeyError):
        opt.state[torch.nn.Parameter(torch.zeros(2))]


def test_another_device_or_dtype_later():
    (a,) = tensors((6, 5))
    opt = Shampoo([a], **OPTIONS)
    step(opt, steps=3)
    before = entries(opt, a)
    a.data = a.data.double()
    assert opt.state_dict()["state"][0]["momentum"].dtype == torch.float64
    assert_same({n: x.double() for n, x in entries(opt, a).items()}, {n: x.double() for n, x in before.items()})


# How it looks.


def test_it_is_never_empty_and_shows_what_the_step_works_on():
    a, b = tensors((6, 5), (5,))
    opt = Shampoo([a, b], **OPTIONS)
    assert opt.state
    assert [id(p) for p in opt.state] == [id(a), id(b)]
    momentum = opt.state[a]["momentum"]
    kept = opt.state[a]
    step(opt, steps=3)
    assert torch.equal(momentum, opt.state[a]["momentum"])
    assert momentum.any()
    assert int(kept["step"]) == 3
    for mine, p in zip(opt.state_dict()["state"].values(), (a, b), strict=True):
        assert_same(mine, dict(opt.state[p]))
    opt.state[a]["momentum"].zero_()
    opt.state[b]["moment"] = torch.ones(5)
    assert not opt.state_dict()["state"][0]["momentum"].any()
    assert torch.equal(opt.state_dict()["state"][1]["moment"], torch.ones(5))
    with pytest.raises(ValueError, match=r"moment must have shape \(5,\), got \(4,\)"):
        opt.state[b]["moment"] = torch.ones(4)


def test_common_ways_with_the_state():
    a, b = tensors((6, 5), (5,))
    opt = Shampoo([a, b], **OPTIONS)
    step(opt, steps=3)
    before = {p: entries(opt, p) for p in (a, b)}
    for state in opt.state.values():  # to the device of the parameters, after a load
        for name, x in state.items():
            state[name] = x.to("cpu", copy=True)
    for p, state in opt.state.items():
        opt.state[p] = type(state)(collections.OrderedDict((name, x.clone()) for name, x in state.items()))
    for p in (a, b):
        assert_same(entries(opt, p), before[p])
    opt.state = collections.defaultdict(dict)  # start afresh
    assert opt.diagnostics().step == 0
    step(opt, steps=2)
    opt.state.clear()
    assert opt.diagnostics().step == 0


@pytest.mark.parametrize("carry", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_entries_of_wrappers_stay_and_are_saved(carry):
    (a,) = tensors((6, 5))
    opt = Shampoo([a], **OPTIONS)
    assert "slow" not in opt.state[a]
    opt.state[a]["slow"] = torch.full((6, 5), 2.0)
    step(opt, steps=3)
    opt.state[a]["slow"].mul_(2)
    again = Shampoo(tensors((6, 5)), **OPTIONS)
    again.load_state_dict(carry(opt.state_dict()))
    copied = carry(opt)
    opt.param_groups[0]["params"] = [*tensors((2,)), a]
    for found in (opt, again, copied):
        *_, p = found.state
        assert torch.equal(found.state[p]["slow"], torch.full((6, 5), 4.0))
        assert int(found.state[p]["count"]) == 3


def test_hooks_see_the_whole_dict():
    (a,) = tensors((6, 5))
    opt = Shampoo([a], **OPTIONS)
    step(opt)
    seen = {}
    opt.register_state_dict_post_hook(lambda _, found: seen.update(found["state"][0]))
    opt.state_dict()
    assert {"momentum", "block0/axis0/root"} <= seen.keys()

    def halve(_, found):
        found["state"][0]["momentum"] /= 2

    again = Shampoo(tensors((6, 5)), **OPTIONS)
    again.register_load_state_dict_pre_hook(halve)
    want = opt.state[a]["momentum"] / 2
    again.load_state_dict(opt.state_dict())
    assert torch.equal(next(iter(again.state.values()))["momentum"], want)


# Dicts.


@pytest.mark.parametrize(
    "options",
    [
        {"averaging": "ema", "graft": "trust_ratio"},
        {"hyperball": True, "state_dtype": "bfloat16"},
        {"direction": "spectral"},
        {"algorithm": "soap"},
        {"graft": "none", "momentum": "nesterov", "momentum_of": "direction"},
    ],
    ids=str,
)
def test_the_default_device_of_torch_changes_nothing(options):
    """Under `torch.set_default_device`, what is made without a device is not where the parameters are."""
    found = []
    for device in ("cpu", "meta"):  # nothing made there could be read
        params, others = tensors((6, 5), (5,)), tensors((6, 5), (5,))
        opt, again = Shampoo(params, **OPTIONS, **options), Shampoo(others, **OPTIONS, **options)
        with torch.device(device):
            for k in range(5):
                for p in params:
                    p.grad = torch.full(p.shape, 1.0 + k, device="cpu")
                opt.step()
            saved = opt.state_dict()
            again.load_state_dict(saved)
            copy.deepcopy(opt).averaged_parameters()
            pickle.dumps(opt)
            opt.eval()
            opt.train()
            opt.diagnostics()
            opt.state[params[0]]["momentum"] = again.state[others[0]]["momentum"]
        assert {x.device.type for mine in saved["state"].values() for x in mine.values()} == {"cpu"}
        assert again.diagnostics().step == 5
        found.append(params)
    for p, q in zip(*found, strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("change", [{"preconditioned_dims": "none"}, {"direction": "spectral"}])
def test_options_that_no_longer_fit_the_state_are_told_with_the_remedy(change):
    params = [torch.nn.Parameter(torch.ones(*shape)) for shape in ((6, 4), (3,), (8, 8))]
    opt = Shampoo(params, lr=0.1)

    def step():
        for p in params:
            p.grad = torch.ones_like(p)
        opt.step()

    step()
    opt.param_groups[0].update(change)
    with pytest.raises(ValueError, match=r"options of a group must fit the state: .*'0/0'.*del optimizer.state\[p\]"):
        step()
    for p in (params[0], params[2]):
        del opt.state[p]
    step()
    assert opt.plan().rows[0].treatment != "both sides"
    assert [int(opt.state[p]["count"]) for p in params] == [1, 2, 1]
    assert all(torch.isfinite(p).all() for p in params)
    with pytest.raises(KeyError):
        del opt.state[torch.nn.Parameter(torch.ones(2))]
