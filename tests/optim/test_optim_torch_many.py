"""State dicts of many small tensors: what a save and a load cost, and what hooks see of them."""

from __future__ import annotations

import gc
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from matroot_optim import Shampoo as Core  # noqa: E402
from matroot_optim.torch import Shampoo  # noqa: E402


def optimizer(pairs, steps=0, seed=0, **options):
    """Return an optimizer of so many biases and matrices, after some steps."""
    torch.manual_seed(seed)
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in [(3,), (2, 2)] * pairs]
    opt = Shampoo(params, **{"lr": 0.1, "refresh_every": 2, **options})
    for _ in range(steps):
        step(opt)
    return opt


def step(opt):
    for group in opt.param_groups:
        for p in group["params"]:
            p.grad = torch.randn_like(p)
    opt.step()


def functions(act):
    """Count the functions that are called."""
    count = 0

    def see(frame, event, arg):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(see)
    try:
        act()
    finally:
        sys.setprofile(None)
    return count


def same(a, b):
    return all(
        mine.keys() == b[k].keys() and all(torch.equal(x, b[k][name]) for name, x in mine.items())
        for k, mine in a.items()
    )


# What they cost.


def costs(pairs):
    """Count the functions of a save and of a load."""
    opt, again = optimizer(pairs, steps=3), optimizer(pairs)
    saved = opt.state_dict()
    again.load_state_dict(saved)
    return functions(opt.state_dict), functions(lambda: again.load_state_dict(saved))


def test_a_save_and_a_load_call_few_functions_for_a_pair_of_tensors():
    """A pair has 46 entries; they took 174 and 778 calls, when names were made and looked up one by one."""
    for few, many, most in zip(costs(20), costs(60), (60, 240), strict=True):
        assert (many - few) / 40 < most


@pytest.mark.slow
def test_saving_and_loading_cost_by_the_number_of_tensors():
    counts = [costs(n) for n in (100, 200, 400)]
    for a, b, c in zip(*counts, strict=True):
        assert c - b <= 2.1 * (b - a)  # a quadratic part would make it 4


@pytest.fixture
def collections():
    """The collections of the garbage collector, whose patience is one object."""
    seen = []

    def note(phase, info):
        seen.append(phase)

    old = gc.get_threshold()
    gc.callbacks.append(note)
    gc.set_threshold(1, 10_000, 10_000)
    yield seen
    gc.set_threshold(*old)
    gc.callbacks.remove(note)


def test_nothing_is_collected_meanwhile(collections, tmp_path):
    opt, again = optimizer(20, steps=2), optimizer(20)
    core, params = Core(0.1), {str(k): np.ones((2, 2)) for k in range(20)}
    state = core.init(params)
    saved = opt.state_dict()
    acts = {
        "save": opt.state_dict,
        "load": lambda: again.load_state_dict(saved),
        "write": lambda: state.save(tmp_path / "s.npz"),
        "read": lambda: core.load(tmp_path / "s.npz", params),
    }
    for name, act in acts.items():
        collections.clear()
        act()
        assert len(collections) < 20, name  # before and after it
        assert gc.isenabled()
    del saved["state"][3]
    with pytest.raises(ValueError, match="lacks '0/3'"):
        again.load_state_dict(saved)
    assert gc.isenabled()
    gc.disable()
    try:
        opt.state_dict()
        assert not gc.isenabled()
    finally:
        gc.enable()


# What is saved and seen.


def test_later_steps_and_loads_leave_what_was_saved():
    opt, again = optimizer(3, steps=3), optimizer(3, seed=1)
    saved = opt.state_dict()["state"]
    before = {k: {name: x.clone() for name, x in mine.items()} for k, mine in saved.items()}
    again.load_state_dict({"state": saved, "param_groups": opt.state_dict()["param_groups"]})
    for found in (opt, again):
        for _ in range(3):
            step(found)
    assert same(saved, before)
    parts = [x for mine in saved.values() for name, x in mine.items() if name in ("momentum", "moment")]
    assert len({x.untyped_storage().data_ptr() for x in parts}) == len(parts)  # pickle writes a storage for each view


def test_hooks_see_the_state_and_a_load_is_done_when_its_hooks_run():
    opt, again = optimizer(2, steps=3), optimizer(2, steps=1)
    seen = []

    def look(found, *_):
        seen.append(max(int(mine["step"]) for mine in found.state.values()))

    opt.register_state_dict_pre_hook(look)
    opt.register_state_dict_post_hook(look)
    again.register_load_state_dict_pre_hook(look)
    again.register_load_state_dict_post_hook(look)
    again.load_state_dict(opt.state_dict())
    assert seen == [3, 3, 1, 3]

    def fail(_):
        raise RuntimeError("a hook")

    step(opt)
    handle = again.register_load_state_dict_post_hook(fail)
    with pytest.raises(RuntimeError, match="a hook"):
        again.load_state_dict(opt.state_dict())
    handle.remove()
    assert again.diagnostics().step == 3
    opt.register_state_dict_post_hook(fail)
    with pytest.raises(TypeError):
        opt.state_dict()
    assert len(opt.state) == 4


def test_shapes_that_many_share_beside_shapes_of_one():
    """Cuts, blocks and names are found once for all parameters that are alike."""
    shapes = [(5, 4), (5, 4), (9, 7), (3,), (), (0, 2), (9, 7), (2, 3, 4)]
    torch.manual_seed(0)

    def make(block):
        params = [
            torch.nn.Parameter(torch.ones(s, dtype=torch.float64 if k == 1 else None)) for k, s in enumerate(shapes)
        ]
        groups = [{"params": params[:5]}, {"params": params[5:], "block_size": block, "momentum": "none"}]
        return Shampoo(groups, lr=0.1, refresh_every=2, block_size=4)

    opt, again, other = make(3), make(3), make(5)
    for _ in range(4):
        step(opt)
    again.load_state_dict(opt.state_dict())
    assert same(again.state_dict()["state"], opt.state_dict()["state"])
    groups = [{**group, "block_size": 5} for group in opt.state_dict()["param_groups"]]
    other.load_state_dict({"state": opt.state_dict()["state"], "param_groups": groups})
    for found in (opt, again, other):
        torch.manual_seed(1)
        step(found)
    assert same(again.state_dict()["state"], opt.state_dict()["state"])
    assert torch.equal(*(found.state_dict()["state"][6]["moment"] for found in (opt, other)))
