"""The calls of a step: a step costs Python and torch little beside its products."""

import itertools
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from matroot_optim.arrays import namespace  # noqa: E402
from matroot_optim.step import by_row  # noqa: E402
from matroot_optim.torch import SOAP, KLShampoo, Shampoo  # noqa: E402


class Calls(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = 0
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        self.names.add(func.overloadpacket.__name__)
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


@pytest.mark.parametrize(("kind", "most"), [(Shampoo, 100), (SOAP, 130)])
def test_a_step_of_small_tensors_makes_few_calls(kind, most):
    into_torch, functions = calls(kind, 0)
    assert into_torch < most
    more = calls(kind, 50)
    assert more[0] - into_torch < 3.5 * 50  # a bias is detached, its gradient too, and one division
    assert more[1] - functions < 50 * 50


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("kind", "options"), [(Shampoo, {}), (SOAP, {}), (KLShampoo, {}), (SOAP, {"statistics_of": "whitened"})]
)
def test_products_are_numpys_where_torch_has_one_thread(threads, kind, options):
    for count, by_torch in (1, False), (2, True):
        threads(count)
        assert has_products_by_torch(kind, [(12, 9), (8, 6, 5), (7, 3)], **options) == by_torch


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize(("kind", "options"), [(Shampoo, {}), (Shampoo, {"graft": "none"}), (SOAP, {})])
def test_products_of_rows_that_ranks_may_share_are_torchs(threads, monkeypatch, kind, options, same):
    """Unless numpy's have the same bits in every place of a chunk."""
    monkeypatch.setattr(by_row, "same_in_every_place", lambda n, dtype: same)
    threads(1)
    assert has_products_by_torch(kind, [(60, 16)], preconditioned_dims="one_sided", **options) != same


def has_products_by_torch(kind, shapes, **options):
    params = [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
    optimizer = kind(params, lr=1e-3, start_step=1, **options)
    with Calls() as mode:
        for _ in range(4):
            for p in params:
                p.grad = torch.randn(p.shape)
            optimizer.step()
    return bool(mode.names & {"bmm", "mm"})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_products_of_tensors_do_not_depend_on_who_computes_them(threads, dtype):
    """Whole numbers, so that every order of summation gives the same bits; transposes, stacks of stacks, weights."""
    rng = np.random.default_rng(0)
    A, B, C = (torch.from_numpy(rng.integers(-3, 4, s)).to(dtype) for s in ((3, 4, 5), (3, 5, 4), (3, 2, 5, 4)))
    A.requires_grad_()
    matmul, found = namespace(A).matmul, []
    for count in 1, 2:
        threads(count)
        with torch.no_grad():
            found.append([matmul(A, B), matmul(A.mT, B.mT), matmul(A[:, None], C), matmul(B[1:], A[1:])])
    for x, y in zip(*found, strict=True):
        assert x.dtype == y.dtype == dtype and x.shape == y.shape and not x.requires_grad
        assert torch.equal(x, y)
