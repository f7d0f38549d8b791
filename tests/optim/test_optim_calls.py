"""The calls of a step: a step costs Python and torch little beside its products."""

import itertools
import sys

import pytest

torch = pytest.importorskip("torch")
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from matroot_optim.torch import SOAP, Shampoo  # noqa: E402


class Calls(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def calls(kind, biases):
    """Return the mean calls into torch, and of functions, of a step of 64-128-128-10 with more biases."""
    layers = [torch.nn.Linear(m, n) for m, n in itertools.pairwise((64, 128, 128, 10))]
    params = [p for layer in layers for p in layer.parameters()]
    params += [torch.nn.Parameter(torch.zeros(8)) for _ in range(biases)]
    optimizer = kind(params, lr=1e-3)
    functions, into_torch, counted = 0, 0, 10

    def count(frame, event, arg):
        nonlocal functions
        functions += event in ("call", "c_call")

    for step in range(25 + 2 * counted):
        for p in params:
            p.grad = torch.randn(p.shape)
        if step < 25:
            optimizer.step()
        elif step < 25 + counted:
            with Calls() as mode:
                optimizer.step()
            into_torch += mode.count
        else:
            sys.setprofile(count)
            try:
                optimizer.step()
            finally:
                sys.setprofile(None)
    return into_torch / counted, functions / counted


@pytest.mark.parametrize(("kind", "most"), [(Shampoo, 100), (SOAP, 140)])
def test_a_step_of_small_tensors_makes_few_calls(kind, most):
    into_torch, functions = calls(kind, 0)
    assert into_torch < most
    more = calls(kind, 50)
    assert more[0] - into_torch < 3.5 * 50  # a bias is detached, its gradient too, and one division
    assert more[1] - functions < 50 * 50
