"""Tensors that the torch adapter does not serve are refused at construction; modes and wrappers that it does serve."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from matroot_optim.torch import Shampoo  # noqa: E402


@pytest.fixture
def one_process():
    """A process group of this process alone."""
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=torch.distributed.HashStore())
    yield
    torch.distributed.destroy_process_group()


def parameter(*shape):
    return torch.nn.Parameter(torch.arange(1.0, 1.0 + np.prod(shape)).reshape(shape).clone())


def quantized():
    return torch.quantize_per_tensor(torch.ones(3, 2), 0.1, 0, torch.qint8)


def nested():
    return torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)], layout=torch.jagged, requires_grad=True)


def fake():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return torch.nn.Parameter(torch.ones(3, 2))


def in_inference_mode():
    with torch.inference_mode():
        return torch.ones(3, 2)


def flat():
    x = parameter(12)
    x._is_flat_param = True
    return x


KINDS = {
    "sparse": (lambda: torch.eye(3).to_sparse().requires_grad_(), r"layout torch.sparse_coo; use x.to_dense\(\)"),
    "csr": (lambda: torch.eye(3).to_sparse_csr().requires_grad_(), "layout torch.sparse_csr"),
    "nested": (nested, "a nested tensor; use one tensor for each component"),
    "fake": (fake, "a FakeTensor, which has no values; make the optimizer outside of FakeTensorMode"),
    "meta": (
        lambda: torch.nn.Parameter(torch.ones(3, 2, device="meta")),
        r"the meta device, .*; call to_empty\(\) first",
    ),
    "quantized": (quantized, r"a quantized tensor \(torch.qint8\); train its float original"),
    "inference": (in_inference_mode, "made in inference mode; clone it outside of inference mode"),
    "flat": (flat, "a flat parameter of FullyShardedDataParallel, which has no matrices; keep the parameters whole"),
    "complex": (
        lambda: torch.nn.Parameter(torch.ones(3, 2, dtype=torch.complex64)),
        "real floating point, got complex64",
    ),
    "integer": (lambda: torch.ones(3, 2, dtype=torch.int64), "real floating point, got int64"),
}


@pytest.mark.filterwarnings(
    "ignore:.*CSR.*beta state", "ignore:.*nested tensors is in prototype", "ignore:.*deprecated"
)
@pytest.mark.parametrize("kind", KINDS)
def test_kinds_that_are_not_served(kind):
    make, message = KINDS[kind]
    x = make()
    with pytest.raises(TypeError, match=rf"parameter '0/1' must be .*{message}"):
        Shampoo([parameter(2, 2), x])
    with pytest.raises(TypeError, match=rf"parameter '1/0 \(head\)' must be .*{message}"):
        Shampoo([{"params": [("body", parameter(2, 2))]}, {"params": [("head", x)]}])
    opt = Shampoo([parameter(2, 2)])
    with pytest.raises(TypeError, match=message):
        opt.add_param_group({"params": x})
    assert len(opt.param_groups) == 1


def test_shards_of_columns(one_process):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (1,))
    rows, columns = (distribute_tensor(torch.ones(4, 3), mesh, [Shard(dim)]) for dim in (0, 1))
    with pytest.raises(
        TypeError, match=r"'0/1 \(head\)' .* placements \(Shard\(dim=1\),\); shard dimension 0 along one"
    ):
        Shampoo([("body", torch.nn.Parameter(rows)), ("head", torch.nn.Parameter(columns))])
    whole = Shampoo([parameter(2, 2)])
    with pytest.raises(TypeError, match="the first parameters must be DTensors too, or shard=True"):
        whole.add_param_group({"params": torch.nn.Parameter(rows)})
    assert len(whole.param_groups) == 1


def test_owned_blocks_of_one_rank(one_process):
    x, y = parameter(6, 5), parameter(6, 5)
    owned, whole = Shampoo([x], lr=0.1, shard=True), Shampoo([y], lr=0.1)
    for _ in range(7):
        for p, opt in ((x, owned), (y, whole)):
            p.grad = torch.cos(p.detach())
            opt.step()
    torch.testing.assert_close(x, y, rtol=1e-6, atol=0)  # norms of parts are summed otherwise
    assert owned.state[x].keys() == whole.state[y].keys()
    assert owned.state[x]["momentum"].shape == (30,)  # the part that this rank owns
    with pytest.raises(TypeError, match="momentum must not be set with owned blocks"):
        owned.state[x]["momentum"] = torch.zeros(30)
    assert owned.diagnostics().names == whole.diagnostics().names
    assert owned.diagnostics().graft_ratio == pytest.approx(whole.diagnostics().graft_ratio)
    with pytest.raises(TypeError, match="cannot be copied or pickled"):
        copy.deepcopy(owned)
    assert torch.equal(owned.averaged_parameters()[0], x)
    saved = owned.state_dict()
    whole.load_state_dict(saved)
    owned.load_state_dict(saved)
    for opt in (owned, whole):
        opt.step()
    torch.testing.assert_close(x, y, rtol=1e-6, atol=0)
    del saved["state"][0]["block0/axis1/root"]
    with pytest.raises(ValueError, match="block0/axis1/root"):
        owned.load_state_dict(saved)
    saved = whole.state_dict()
    saved["param_groups"][0]["block_size"] = 2
    with pytest.raises(ValueError, match="must have the blocks of its options; load it in one process"):
        owned.load_state_dict(saved)


def test_what_shard_may_be(one_process):
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (1, 1), mesh_dim_names=("a", "b"))
    Shampoo([parameter(2, 2)], shard=mesh["a"]).plan()
    with pytest.raises(ValueError, match="a device mesh must have one dimension"):
        Shampoo([parameter(2, 2)], shard=mesh)
    with pytest.raises(TypeError, match="shard must be a bool, a process group or"):
        Shampoo([parameter(2, 2)], shard="yes")


def test_owned_blocks_need_connected_processes():
    with pytest.raises(RuntimeError, match=r"call torch\.distributed\.init_process_group first"):
        Shampoo([parameter(2, 2)], shard=True)


@pytest.mark.filterwarnings("ignore")
def test_flat_parameters_of_fsdp1(one_process):
    from torch.distributed.fsdp import FullyShardedDataParallel

    for original in (False, True):
        model = FullyShardedDataParallel(torch.nn.Linear(4, 3), device_id=torch.device("cpu"), use_orig_params=original)
        with pytest.raises(TypeError, match="a flat parameter of FullyShardedDataParallel"):
            Shampoo(model.parameters())


def test_inside_of_vmap():
    def f(x):
        Shampoo([x])
        return x

    with pytest.raises(TypeError, match=r"parameter '0/0' .* a tensor inside torch.func.vmap"):
        torch.func.vmap(f)(torch.ones(3, 2))


@pytest.mark.parametrize("stepped", (False, True))
def test_the_state_of_another_optimizer(stepped):
    model = torch.nn.Linear(3, 2)
    other = torch.optim.AdamW(model.parameters(), lr=0.5, weight_decay=0.5)
    model(torch.ones(4, 3)).sum().backward()
    if stepped:
        other.step()
    optimizer = Shampoo(model, lr=1e-3)
    before = copy.deepcopy(optimizer.param_groups)
    with pytest.raises(ValueError, match=r"must come from matroot_optim\.torch\.Shampoo"):
        optimizer.load_state_dict(other.state_dict())
    assert str(optimizer.param_groups) == str(before)


def test_a_parameter_given_twice():
    x, y = parameter(2, 2), parameter(2)
    with pytest.raises(ValueError, match="must be given once, got '0/2', which is '0/0'"):
        Shampoo([x, y, x])
    with pytest.raises(ValueError, match="more than one parameter group"):
        Shampoo([{"params": [x]}, {"params": [y, x]}])


def test_steps_in_inference_mode_are_steps():
    runs = []
    for inside in (False, True):
        p = parameter(4, 3)
        opt = Shampoo([p], lr=0.1, refresh_every=2)
        for k in range(6):
            with torch.inference_mode(inside and k in (0, 3)):
                p.grad = torch.cos(torch.arange(12.0) + k).reshape(4, 3)
                opt.step()
                if k == 3:
                    opt.load_state_dict(opt.state_dict())
        runs.append(p.detach().clone())
    assert torch.equal(*runs)


def test_lazy_parameters_get_their_shape_later():
    model = torch.nn.LazyLinear(3)
    opt = Shampoo(model.parameters(), lr=0.1)
    model(torch.ones(2, 4)).square().sum().backward()
    opt.step()
    assert opt.state[model.weight]["momentum"].shape == (3, 4)


def zero(params, **options):
    from torch.distributed.optim import ZeroRedundancyOptimizer

    return ZeroRedundancyOptimizer(params, optimizer_class=Shampoo, **options)


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_the_zero_redundancy_optimizer(one_process):
    options = {"lr": 0.1, "refresh_every": 2, "block_size": 3, "clip_norm": 1.0, "weight_decay": 0.1}

    def train(opt, params, start, stop):
        for k in range(start, stop):
            for p in params:
                p.grad = torch.cos(p.detach() + k)
            opt.step()

    one, other, third = ([parameter(5, 4), parameter(4)] for _ in range(3))
    plain, sharded = Shampoo(one, **options), zero(other, **options)
    train(plain, one, 0, 5), train(sharded, other, 0, 5)
    sharded.consolidate_state_dict(0)
    saved = sharded.state_dict()
    again = zero(third, **options)
    again.load_state_dict(saved)
    with torch.no_grad():
        for p, q in zip(third, other, strict=True):
            p.copy_(q)
    train(plain, one, 5, 9), train(again, third, 5, 9)
    for p, q in zip(one, third, strict=True):
        assert torch.equal(p, q)


def test_optimizers_in_threads_give_the_numbers_of_one_after_the_other():
    start = threading.Barrier(6)

    def train(seed, wait=True):
        if wait:
            start.wait()
        rng = np.random.default_rng(seed)
        params = [torch.nn.Parameter(torch.from_numpy(rng.standard_normal(s))) for s in ((24, 24), (24, 7), (5,))]
        opt = Shampoo(params, lr=0.01, refresh_every=3)
        for _ in range(12):
            for p in params:
                p.grad = torch.from_numpy(rng.standard_normal(p.shape))
            opt.step()
        return params

    want = [train(seed, wait=False) for seed in range(6)]
    with ThreadPoolExecutor(6) as pool:
        for got, params in zip(pool.map(train, range(6)), want, strict=True):
            for p, q in zip(got, params, strict=True):
                assert torch.equal(p, q)


# Names in messages, where the optimizer has them.


def sparse(model):
    model[0].weight.grad = torch.eye(9, 4).to_sparse()
