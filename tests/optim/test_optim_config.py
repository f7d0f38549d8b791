"""Options: every error names the field, the value and what is allowed; JSON round trip; presets."""

from __future__ import annotations

import dataclasses
import inspect
from fractions import Fraction

import numpy as np
import pytest

from matroot import PseudoInverse
from matroot_optim import SOAP, ExecutorEngine, InlineEngine, Shampoo
from matroot_optim.options import RULES

PRESETS = ("anil2020", "google", "meta", "anil2026")

WRONG = {
    "learning_rate": ["fast", -1.0, float("nan"), True],
    "algorithm": ["adam", None],
    "betas": [(0.9,), (1.0, 0.9), (0.9, 1.1), 0.9, (-0.1, 0.9), None],
    "momentum": ["adam", None, 0.9],
    "momentum_of": ["step", None],
    "bias_correction": [1, "yes"],
    "weight_decay": [-0.1, "a", None],
    "decay": ["adamw", None],
    "clip_norm": [0.0, -1.0, "x"],
    "clip_rms": [0.0],
    "cautious_decay": [1, None],
    "cautious_update": ["yes"],
    "hyperball": [0],
    "averaging": ["swa", None],
    "averaging_beta": [0.0, 1.0, "x"],
    "block_size": [0, 1.5, True, "128", None],
    "block_aspect": [0.5, "x"],
    "merge": [0, 2.0, "tensor"],
    "split": [1, (2,), (0, 3), "qkv", 2.0],
    "split_dim": [0.5, None],
    "batch_dims": [-1, None],
    "max_preconditioned_dim": [0, -4],
    "preconditioned_dims": ["both", 3, (0, 0), (0.5,)],
    "precondition_vectors": [0],
    "exponent": [0, 0.5, -2, "a", -0.123457, True],
    "direction": ["muon", None],
    "spectral_exponent": [2.0, "half", -0.123457],
    "statistics_of": ["direction", None],
    "statistics_every": [0, 0.5],
    "refresh_every": [0, 1.0, None],
    "refresh_growth": [-0.1, 1.5, None],
    "schedule": ["sometimes"],
    "stale_tolerance": [0.0],
    "ridge": [-1e-6, 2.0, None],
    "regularization": [-0.1, 1.5, "ridge", True, {"rule": "Ride"}],
    "basis": ["svd", None],
    "root_tolerance": [0.0, -1],
    "root_method": ["", 3],
    "root_dtype": ["float16", np.float64],
    "root_device": ["gpu"],
    "state_dtype": ["float16", None],
    "engine": ["threads", 4],
    "graft": ["adamw", None],
    "graft_normalize": [1],
    "graft_per_block": [1],
    "graft_beta": [1.0, -0.5],
    "graft_epsilon": [1.0, -1e-8],
    "start_step": [0, 0.5],
    "mix_steps": [-1, 0.5],
    "on_nonfinite": ["ignore"],
    "groups": [{"a": 1}, {3: {}}, 5],
}


def test_every_option_is_tested_and_documented():
    names = {field.name for field in dataclasses.fields(Shampoo)}
    assert names == set(WRONG) == set(RULES)
    for name in names:
        assert f"\n{name} : " in inspect.getdoc(Shampoo), name


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_wrong_values_are_named(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be .*, got ") as error:
        Shampoo(**{"learning_rate": 0.1, name: value})
    assert repr(value) in str(error.value)


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Shampoo(0.1).block_size = 3


@pytest.mark.parametrize("exponent", [-0.25, "-1/4", Fraction(-1, 4)])
def test_exponent_in_any_writing(exponent):
    assert Shampoo(0.1, exponent=exponent).exponent == Fraction(-1, 4)


def test_thirds_are_recognised():
    assert Shampoo(0.1, exponent=-1 / 3).exponent == Fraction(-1, 3)


@pytest.mark.parametrize(
    "opt",
    [
        Shampoo(0.1),
        Shampoo(1e-3, betas=(0.5, 1.0), exponent="-3/8", preconditioned_dims=(0, -1), clip_norm=1.0, start_step=7),
        *(Shampoo.preset(name) for name in PRESETS),
    ],
)
def test_json_round_trip(opt):
    again = Shampoo.from_json(opt.to_json())
    assert again == opt
    assert hash(again) == hash(opt)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", lambda step: 0.1),
        ("groups", lambda path: None),
        ("engine", InlineEngine()),
        ("refresh_every", abs),
    ],
)
def test_json_refuses_what_is_no_data_and_takes_it_back(name, value):
    opt = Shampoo(**{"learning_rate": 0.1, name: value})
    with pytest.raises(ValueError, match=f"{name} must be plain data"):
        opt.to_json()
    plain = dataclasses.replace(opt, **{name: {"learning_rate": 0.1, "refresh_every": 10}.get(name)})
    assert Shampoo.from_json(plain.to_json(), **{name: value}) == opt


def test_json_refuses_the_unknown():
    with pytest.raises(ValueError, match="got blok_size"):
        Shampoo.from_json('{"learning_rate": 0.1, "blok_size": 3}')
    with pytest.raises(ValueError, match="must be a JSON object"):
        Shampoo.from_json("[1]")


def test_presets():
    assert Shampoo.preset("google").block_size == 128
    assert Shampoo.preset("meta", learning_rate=0.3).learning_rate == 0.3
    with pytest.raises(ValueError, match=r"preset must be one of 'anil2020', 'google', 'meta', 'anil2026', got 'adam'"):
        Shampoo.preset("adam")


@pytest.mark.parametrize("name", PRESETS)
def test_presets_step(name):
    opt = Shampoo.preset(name)
    W = np.random.default_rng(0).standard_normal((4, 3))
    state = opt.init(W)
    for _ in range(6):
        u, state = opt.update(W, state, W)
    assert np.isfinite(u).all()
    assert (u * W).sum() < 0


def test_groups_must_name_options_of_one_parameter():
    with pytest.raises(ValueError, match=r"groups\('w'\) must set only options of one parameter .*got 'refresh_every'"):
        Shampoo(0.1, groups=lambda path: {"refresh_every": 3}).init({"w": np.ones(2)})
    with pytest.raises(ValueError, match="got 'lr'"):
        Shampoo(0.1, groups=lambda path: {"lr": 3}).init({"w": np.ones(2)})


def test_dimensions_have_to_exist():
    with pytest.raises(ValueError, match=r"dimensions of the merged shape \(2, 3\) of 'w', got 2"):
        Shampoo(0.1, preconditioned_dims=(2,)).init({"w": np.ones((2, 3))})


def test_weight_decay_needs_params():
    opt = Shampoo(0.1, weight_decay=0.1)
    with pytest.raises(ValueError, match="params must be given"):
        opt.update(np.ones(2), opt.init(np.ones(2)))


@pytest.mark.parametrize("lag", [-1, 0.5, True])
def test_lag_is_checked(lag):
    with pytest.raises(ValueError, match="lag must be an int >= 0"):
        InlineEngine(lag)
    with pytest.raises(ValueError, match="lag must be an int >= 0"):
        ExecutorEngine(list, lag=lag)


def test_start_waits_for_every_root():
    assert Shampoo(0.1, refresh_every=10).first_shampoo_step == 5
    assert Shampoo(0.1, refresh_every=10, engine=InlineEngine(5)).first_shampoo_step == 15
    constant = {"refresh_every": 10, "refresh_growth": 0.0}
    assert Shampoo(0.1, **constant).first_shampoo_step == 10
    assert Shampoo(0.1, **constant, engine=InlineEngine(5)).first_shampoo_step == 15
    assert Shampoo(0.1, graft="none").first_shampoo_step == 1


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"root_method": "foo"}, "one of"),
        ({"root_method": "coupled_newton", "regularization": PseudoInverse()}, "changes single eigenvalues"),
        ({"root_method": "newton_db"}, "exponent -1/3"),
    ],
    ids=str,
)
def test_a_method_of_roots_that_does_not_serve_is_refused_at_once(options, word):
    """And not at the first root, in the middle of a training."""
    with pytest.raises(ValueError, match=f"root_method must be .*{word}"):
        Shampoo(0.1, **options)
    for good in ("eigen", "tridiagonal", "minimax"):
        assert Shampoo(0.1, root_method=good).root_method == good
    assert Shampoo(0.1, root_method="newton_db", exponent=-0.5)


def test_rates_of_all_parameters_may_change_from_step_to_step():
    params, grads = {"w": np.ones((4, 3))}, {"w": np.arange(12.0).reshape(4, 3)}
    state = Shampoo(0.1).init(params)
    once, _ = Shampoo(0.1).update(grads, state, params)
    twice, _ = Shampoo(lambda step: 0.2, betas=(0.5, 0.999)).update(grads, state, params)
    np.testing.assert_allclose(twice["w"], 2 * once["w"])  # the first mean is the gradient, whatever the momentum
    still, _ = Shampoo(0.1, weight_decay=0.5).update(grads, state, params)
    np.testing.assert_allclose(still["w"], once["w"] - 0.1 * 0.5 * params["w"])


def test_of_one_dimension_only_tables_have_roots_under_soap():
    """The roots of a matrix that is preconditioned on one side are no bases, though those of a table serve both."""
    alike = {"preconditioned_dims": "one_sided", "betas": (0.95, 0.95)}
    params = {"w": np.ones((4, 3))}
    with pytest.raises(ValueError, match="for 'w' it has algorithm='shampoo', not 'soap'"):
        SOAP(0.1, **alike).update(params, Shampoo(0.1, **alike).init(params), params)
    table = {"w": np.ones((340, 32))}
    SOAP(0.1).update(table, SOAP(0.1).init(table), table)


def test_a_state_of_other_options_is_refused():
    """The options in the state would make the step, and not those that are asked for."""
    params = {"w": np.ones((4, 3)), "b": np.ones(3)}
    state = Shampoo(0.1, groups={"w": {"graft": "sgd"}}).init(params)
    Shampoo(0.1, groups={"w": {"graft": "sgd"}}).update(params, state, params)
    for other, text in (
        (Shampoo(0.1), "for 'w' it has graft='sgd', not 'adam'"),
        (Shampoo(0.2, groups={"w": {"graft": "sgd"}}), "learning_rate=0.1, not 0.2"),
        (SOAP(0.1, betas=(0.9, 0.999)), "algorithm='shampoo', not 'soap'"),
        (Shampoo(0.1, groups={"w": {"graft": "sgd"}}, betas=(0.9, 0.9)), r"betas=\(0.9, 0.999\), not"),
    ):
        for make in (lambda o: o.update(params, state, params), lambda o: o.step(params, params, state)):
            with pytest.raises(ValueError, match=f"must come from the same options, .*{text}"):
                make(other)
