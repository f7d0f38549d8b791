"""Messages of the optimizer for torch name what is meant."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from matroot_optim.torch import Shampoo  # noqa: E402
from optim.test_optim_torch_refusals import sparse  # noqa: E402


def embedding(**options):
    return torch.nn.Sequential(torch.nn.Embedding(9, 4, **options), torch.nn.Linear(4, 4))


def of_another_shape(model):
    model[1].weight.data = torch.ones(4, 3)
    model[1].weight.grad = torch.ones(4, 3)


def infinite(model):
    model[0].weight.grad = torch.full((9, 4), float("inf"))


@pytest.mark.parametrize(
    ("spoil", "options", "text"),
    [
        (sparse, {}, r"the gradient of parameter '0\.weight' must be dense"),
        (of_another_shape, {}, r"grads must have shape \(4, 4\) at '1\.weight'"),
        (infinite, {"on_nonfinite": "raise"}, r"NaN or infinity in '0\.weight'"),
        (None, {"exponent": (-0.5, -0.5), "merge": None, "precondition_vectors": True}, r"shape \(4,\) of '1\.bias'"),
    ],
    ids=["sparse", "shape", "not finite", "layout"],
)
def test_messages_have_the_names_of_parameters(spoil, options, text):
    model = embedding()
    with pytest.raises((TypeError, ValueError, FloatingPointError), match=text):
        opt = Shampoo(model, **options)
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        opt.step()
        spoil(model)
        opt.step()


def test_messages_without_names_have_the_places():
    opt = Shampoo(embedding().parameters())
    opt.param_groups[0]["params"][0].grad = torch.eye(9, 4).to_sparse()
    with pytest.raises(TypeError, match="the gradient of parameter '0/0' must be dense"):
        opt.step()


def test_a_dict_of_other_groups():
    model = embedding()
    saved = Shampoo(model).state_dict()
    opt = Shampoo(model.parameters())
    with pytest.raises(ValueError, match=r"groups of 2, 1 parameters, named 'dense', 'tables', and .* of 3"):
        opt.load_state_dict(saved)
    with pytest.raises(ValueError, match=r"groups of no parameters, and .* of 3"):
        opt.load_state_dict({**saved, "param_groups": []})
    opt.load_state_dict(Shampoo(model.parameters()).state_dict())


def test_a_dict_of_another_shape():
    saved = Shampoo(torch.nn.Linear(4, 3)).state_dict()
    with pytest.raises(ValueError, match=r"must have shape \(3, 5\) for parameter 'weight', got \(3, 4\)"):
        Shampoo(torch.nn.Linear(5, 3)).load_state_dict(saved)


def test_the_dict_of_another_order_names_both_shapes():
    """Both shapes are in the dict, and of the one without roots entries are missing."""
    params = [torch.nn.Parameter(torch.ones(*shape)) for shape in ((4, 12), (4,), (12, 12))]
    opt = Shampoo(params, lr=0.1)
    for p in params:
        p.grad = torch.ones_like(p)
    opt.step()
    for order, want, got in (([0, 2, 1], r"\(12, 12\)", r"\(4,\)"), ([2, 1, 0], r"\(12, 12\)", r"\(4, 12\)")):
        other = Shampoo([params[i] for i in order], lr=0.1)
        with pytest.raises(ValueError, match=f"must have shape {want} for parameter '0/{order.index(2)}', got {got}"):
            other.load_state_dict(opt.state_dict())
