"""What someone who comes from AdamW writes first: its options, its spelling, and a look before the first root."""

from __future__ import annotations

import numpy as np
import pytest

import matroot_optim
from matroot_optim.names import FOREIGN, advice

ADVICE = {
    "eps": "graft_epsilon",
    "fused": "leave it out",
    "maximize": "negate",
    "b1": "betas",
    "refresh_evry": "did you mean 'refresh_every'",
    "precondition_frequency": "refresh_every is the option",
    "what_ever": "the options are",
}


@pytest.mark.parametrize("name", ADVICE)
@pytest.mark.parametrize("kind", ("Shampoo", "SOAP", "KLShampoo"))
def test_torch_advises(kind, name):
    torch = pytest.importorskip("torch")
    import matroot_optim.torch

    with pytest.raises(TypeError, match=f"^{kind} has no option '{name}'; .*{ADVICE[name]}"):
        getattr(matroot_optim.torch, kind)(torch.nn.Linear(3, 2), lr=1e-3, **{name: 1})


@pytest.mark.parametrize("name", ADVICE)
@pytest.mark.parametrize("make", ("scale_by_shampoo", "scale_by_soap", "scale_by_kl_shampoo"))
def test_optax_advises(make, name):
    pytest.importorskip("optax")
    from matroot_optim import optax

    with pytest.raises(TypeError, match=f"there is no option '{name}'; .*{ADVICE[name]}"):
        getattr(optax, make)(**{name: 1})


@pytest.mark.parametrize("kind", ("Shampoo", "SOAP", "KLShampoo"))
def test_the_core_advises(kind):
    make = getattr(matroot_optim, kind)
    for name, text in {**ADVICE, "lr": "learning_rate is the option, and the parameters go to init"}.items():
        with pytest.raises(TypeError, match=f"there is no option '{name}'; .*{text}"):
            make([np.ones((3, 3))], **{name: 1})
    with pytest.raises(ValueError, match=r"learning_rate must be .*\(parameters go to init\), got (?s:.){,250}$"):
        make([np.ones(300)])


def test_models_and_parameters_are_no_rates():
    torch = pytest.importorskip("torch")
    for wrong in (torch.nn.Linear(3, 2), torch.nn.Linear(3, 2).parameters()):
        with pytest.raises(ValueError, match="parameters go to init"):
            matroot_optim.Shampoo(wrong)


def test_a_list_is_no_rate_of_optax():
    pytest.importorskip("optax")
    from matroot_optim.optax import soap

    for rate, kind in (([np.ones(3)], "list"), ("1e-3", "str"), (None, "NoneType")):
        with pytest.raises(TypeError, match=f"learning_rate must be a number, array or schedule, got {kind}"):
            soap(rate)


@pytest.mark.parametrize(("name", "value"), [("eps", 1e-8), ("amsgrad", True), ("maximize", True), ("dampening", 0.1)])
def test_an_option_of_others_in_a_group_warns_where_it_would_count(name, value):
    torch = pytest.importorskip("torch")
    from matroot_optim.torch import Shampoo

    params = [torch.nn.Parameter(torch.ones(3, 2))]
    with pytest.warns(UserWarning, match=f"a parameter group has '{name}', which does nothing here; "):
        Shampoo([{"params": params, name: value}])
    Shampoo([{"params": params, name: False, "foreach": True, "fused": True}])


def test_no_advice_for_an_option_that_exists():
    ours = {field: field for field in matroot_optim.Options.__dataclass_fields__}
    assert not FOREIGN.keys() & ours.keys()
    for text in FOREIGN.values():
        if "is the option" in text or "nearest" in text:
            assert text.partition("=")[0].split()[0] in ours
    assert advice("betaz", ours) == "did you mean 'betas'?"


def test_a_preset_in_torch_is_that_of_the_core():
    torch = pytest.importorskip("torch")
    from matroot_optim.torch import Shampoo

    optimizer = Shampoo.preset("google", torch.nn.Linear(3, 2), lr=0.02, refresh_every=7)
    core = matroot_optim.Shampoo.preset("google", learning_rate=0.02, refresh_every=7)
    (group,) = optimizer.param_groups
    assert group["lr"] == 0.02 and group["graft"] == core.graft == "sgd" and group["betas"] == core.betas
    assert Shampoo.preset("meta", torch.nn.Linear(3, 2)).param_groups[0]["lr"] == 1e-2
    with pytest.raises(ValueError, match="preset must be one of"):
        Shampoo.preset("googel", torch.nn.Linear(3, 2))


def test_before_the_first_root_there_is_no_worst_residual():
    opt = matroot_optim.Shampoo(1e-3)
    state = opt.init({"w": np.ones((4, 4))})
    said = str(opt.diagnostics(state))
    assert said == "step 0: 2 roots, none computed yet, graft 1 to 1"
    for _ in range(6):
        _, state = opt.update({"w": np.eye(4)}, state, {"w": np.ones((4, 4))})
    assert "worst residual" in str(opt.diagnostics(state))
