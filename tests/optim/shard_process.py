"""What a process of the tests of owned blocks does: ``python -m optim.shard_process SCENARIO RANK SIZE STORE``."""

from __future__ import annotations

import datetime
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from matroot_optim import InlineEngine, RankError
from matroot_optim._torch.storage import check_devices
from matroot_optim.ranks.blocks import Shares, even_rows
from matroot_optim.torch import SOAP, KLShampoo, Shampoo

#: Rows that no number of ranks divides, fewer rows than ranks, a table, vectors, a scalar-like one.
SHAPES = [(37, 24), (3, 40), (24, 6, 2), (350, 34), (37,), (1,)]
OPTIONS = {"lr": 0.01, "refresh_every": 4, "ridge": 1e-3, "block_size": 16, "weight_decay": 0.1, "refresh_growth": 0.0}
STEPS = int(os.environ.get("STEPS", "12"))
CASES = [
    (Shampoo, {}),
    (Shampoo, {"graft": "none", "momentum_of": "direction", "betas": (0.9, 1.0)}),
    (Shampoo, {"clip_norm": 0.5, "clip_rms": 0.3, "graft_normalize": True, "schedule": "residual"}),
    (Shampoo, {"graft": "sqrt_n", "mix_steps": 5, "decay": "independent", "engine": InlineEngine(3)}),
    (Shampoo, {"graft_per_block": True, "graft": "sgd", "momentum": "nesterov", "decay": "l2"}),
    (SOAP, {"refresh_every": lambda step: 4}),
    (KLShampoo, {"cautious_decay": True}),
    (Shampoo, {"direction": "spectral"}),
    (Shampoo, {"cautious_update": True, "averaging": "ema", "averaging_beta": 0.8}),
    (Shampoo, {"averaging": "schedule_free", "momentum": "none", "clip_norm": 0.5, "decay": "l2"}),
    (Shampoo, {"hyperball": True, "weight_decay": 0.0, "averaging": "ema"}),
    (Shampoo, {"graft": "trust_ratio", "start_step": 5}),
    (Shampoo, {"graft": "trust_ratio", "graft_per_block": True}),
    (Shampoo, {"state_dtype": "bfloat16", "graft_per_block": True}),
    (SOAP, {"state_dtype": "bfloat16", "averaging": "ema"}),
    (Shampoo, {"preconditioned_dims": "one_sided", "block_size": 6}),
    (SOAP, {"preconditioned_dims": "one_sided"}),
]


def weights(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES]


def gradients(step):
    generator = torch.Generator().manual_seed(100 + step)
    found = [torch.randn(shape, generator=generator) for shape in SHAPES]
    if step == 7:
        found[1] = None  # nobody has it
    if step == 8:
        found[0][3, 3] = float("nan")
    return found


def give(params, step):
    for p, g in zip(params, gradients(step), strict=True):
        if g is None:
            p.grad = None
        elif isinstance(p, DTensor):
            p.grad = distribute_tensor(g.to(p.dtype), p.device_mesh, p.placements)
        else:
            p.grad = g.to(p.dtype)


def train(opt, start=0, stop=STEPS):
    params = [p for group in opt.param_groups for p in group["params"]]
    for step in range(start, stop):
        give(params, step)
        opt.step()
    return params


def whole(params):
    return [p.detach().full_tensor() if isinstance(p, DTensor) else p.detach().clone() for p in params]


def placed(mesh, tensors):
    return [torch.nn.Parameter(distribute_tensor(x, mesh, [Shard(0)])) for x in tensors]


def loose():
    return [torch.nn.Parameter(x) for x in weights()]


def with_averages(opt):
    params = train(opt)
    opt.eval()
    averages = whole(params)
    opt.train()
    return params, averages


def furthest(found, expected):
    return max(float((a - b).abs().max()) for a, b in zip(whole(found), whole(expected), strict=True))


def numbers(rank, size, store):
    """FSDP's and DDP's parameters get the numbers of one process."""
    mesh = init_device_mesh("cpu", (size,))
    for kind, options in CASES:
        options = {**OPTIONS, **options}
        expected, found, again = (
            with_averages(kind(params, shard=shard, **options))
            for params, shard in ((loose(), False), (placed(mesh, weights()), False), (loose(), True))
        )
        apart = [furthest(x, y) for params in (found, again) for x, y in zip(params, expected, strict=True)]
        print(kind.__name__, options, apart, flush=True)
        # Products of parts differ by rounding, which turns the bases of nearly equal eigenvalues.
        assert max(apart) <= (1e-4 if kind is SOAP and "preconditioned_dims" in options else 2e-6)


def changed(rank, size, store):
    """Arrays of another kind, after a change of options, begin afresh as in one process."""
    mesh = init_device_mesh("cpu", (size,))
    found = []
    for params in (loose(), placed(mesh, weights())):
        opt = Shampoo(params, **OPTIONS, graft="sgd", averaging="schedule_free")
        train(opt, 0, 6)
        opt.param_groups[0].update(graft="adam", averaging="ema")
        train(opt, 6)
        found.append([*params, *opt.averaged_parameters()])
    assert furthest(*found) <= 2e-6


def traffic(rank, size, store):
    """Two all-to-alls and at most two all-reduces a step, few bytes; a rank holds its share, as planned."""
    for kind in ("float32", "bfloat16"):
        moved(rank, size, kind)


def moved(rank, size, kind):
    calls = {name: 0 for name in ("all_to_all_single", "all_reduce", "all_gather", "broadcast")}
    own = {name: getattr(dist, name) for name in calls}
    for name in calls:

        def counted(*given, _name=name, **more):
            calls[_name] += 1
            return own[_name](*given, **more)

        setattr(dist, name, counted)
    shapes = [(256, 128), (96, 384), (256,)]
    params = [torch.nn.Parameter(torch.ones(shape)) for shape in shapes]
    mesh = init_device_mesh("cpu", (size,))
    options = {**OPTIONS, "block_size": 32, "clip_rms": 1.0, "state_dtype": kind}
    opt = Shampoo(placed(mesh, [p.detach() for p in params]), **options)
    one = Shampoo(params, **options)
    for k in range(2):
        for group in (opt, one):
            for p in group.param_groups[0]["params"]:
                g = torch.full(p.shape, 1.0 + k)
                p.grad = distribute_tensor(g, mesh, [Shard(0)]) if isinstance(p, DTensor) else g
        calls.update(dict.fromkeys(calls, 0))
        before = opt._keeper.transfer.bytes_sent if k else 0
        opt.step()
        one.step()
    assert calls["all_to_all_single"] == 2, calls
    assert calls["all_reduce"] <= 2, calls
    assert calls["all_gather"] == 1, calls
    count = sum(p.numel() for p in params)
    assert opt._keeper.transfer.bytes_sent - before <= 2.05 * 4 * count / size
    held = [sum(x.nbytes for x in o._keeper.state.arrays.values() if isinstance(x, torch.Tensor)) for o in (opt, one)]
    planned = opt._keeper.transfer.bytes_planned[rank]
    shares = Shares(opt._keeper.layout, tuple(even_rows(shape[0], size) for shape in shapes), size, 4)
    assert shares.sent_bytes[rank] == opt._keeper.transfer.bytes_sent - before
    print(f"{opt._keeper.transfer.bytes_sent - before} bytes sent, {held[0]} held, {planned} planned, {held[1]} whole")
    assert held[0] == planned
    assert held[0] <= 1.2 * held[1] / size
    for name, call in own.items():
        setattr(dist, name, call)


def tall(rank, size, store):
    """The rows of a table stay where they are, with their part of the state, and send nothing."""
    in_place(rank, size, Shampoo, 16, preconditioned_dims="one_sided")
    in_place(rank, size, Shampoo, 32)
    in_place(rank, size, KLShampoo, 32)


def in_place(rank, size, kind, width, **options):
    options = {**OPTIONS, **options}
    mesh = init_device_mesh("cpu", (size,))
    opt = kind(placed(mesh, [torch.ones(4000, width)]), **options)
    one = kind([torch.nn.Parameter(torch.ones(4000, width))], **options)
    assert opt.plan().rows[0].exponent
    for each in (opt, one):
        fixed(each, 0, 2)
    held, all_of_it = (
        sum(x.nbytes for x in o._keeper.state.arrays.values() if isinstance(x, torch.Tensor)) for o in (opt, one)
    )
    print(f"table: {held} held, {all_of_it} whole, {opt._keeper.transfer.bytes_sent} sent", flush=True)
    assert opt._keeper.transfer.bytes_sent == 0
    assert held == opt._keeper.transfer.bytes_planned[rank]
    assert held <= 1.02 * all_of_it / size


def network():
    torch.manual_seed(0)
    layers = [torch.nn.Linear(24, 37), torch.nn.Tanh(), torch.nn.Linear(37, 6), torch.nn.Linear(6, 100)]
    return torch.nn.Sequential(*layers)


def run(model, opt, rank, size, start, stop):
    for k in range(start, stop):
        x = torch.randn(12 * size, 24, generator=torch.Generator().manual_seed(k)).chunk(size)[rank]
        opt.zero_grad()
        (model(x)[:, :6] - x[:, :6].sin()).square().mean().backward()
        opt.step()


def trained(rank, size, store):
    """fully_shard trains as one process, also in bfloat16 and over a mesh of two dimensions."""
    for kind in (torch.float32, torch.bfloat16):
        for shape in ((size,), (2, size // 2)) if size % 2 == 0 and size > 2 else ((size,),):
            mesh = init_device_mesh("cpu", shape, mesh_dim_names=("copies", "shards")[-len(shape) :])
            model, one = network().to(kind), network().to(kind)
            fully_shard(model, mesh=mesh)
            opt, alone = Shampoo(model, **OPTIONS), Shampoo(one, **OPTIONS)
            for k in range(10):
                x = torch.randn(12 * size, 24, generator=torch.Generator().manual_seed(k)).to(kind)
                for net, o, mine in ((model, opt, x.chunk(size)[rank]), (one, alone, x)):
                    o.zero_grad()
                    (net(mine)[:, :6] - mine[:, :6].sin()).square().mean().backward()
                    o.step()
            distance = furthest(list(model.parameters()), list(one.parameters()))
            print(f"fully_shard {shape} {kind}: {distance:.2g}", flush=True)
            assert distance <= (1e-4 if kind is torch.float32 else 0.1)


def thawed(rank, size, store):
    """Frozen parameters have no blocks until they are thawed; the numbers are those of one process."""
    mesh = init_device_mesh("cpu", (size,))
    one, many = loose(), placed(mesh, weights())
    alone, opt = (Shampoo(params, averaging="ema", **OPTIONS) for params in (one, many))
    for params, o in ((one, alone), (many, opt)):
        params[0].requires_grad_(False)
        for step in range(9):
            if step == 5:
                assert len(o.state) == len(SHAPES) - 1
                params[0].requires_grad_(True)
            give(params, step)
            if step < 5:
                params[0].grad = None
            o.step()
    apart = max(furthest(many, one), furthest(opt.averaged_parameters(), alone.averaged_parameters()))
    print(f"thawed: {apart:.2g}", flush=True)
    assert apart <= 2e-6
    assert len(opt.state) == len(SHAPES)


def reshard(rank, size, store):
    """A checkpoint of all ranks goes on with one, and one of a single rank with all, and in a plain optimizer."""
    everyone = init_device_mesh("cpu", (size,))
    single = init_device_mesh("cpu", (size, 1), mesh_dim_names=("others", "mine"))["mine"]
    for name, (make, options) in MAKERS.items():
        many, few = store.with_name(f"many-{name}"), store.with_name(f"few-{name}")
        expected = saved(*make(everyone, **options), many, alone=False)
        if rank == 0:
            saved(*make(single, **options), few, alone=True)
        dist.barrier()
        for kind, mesh, folder, alone in (
            (make, single, many, True),
            (make, everyone, few, False),
            (plain, single, many, True),
        ):
            apart = resumed(*kind(mesh, **options), folder, expected, alone=alone)
            print(f"{name}, {folder.name} in {kind.__name__} on {mesh.size()}: {apart:.2g}", flush=True)
            assert apart <= 1e-6


def saved(model, opt, folder, *, alone):
    """Save after 6 steps, with roots under way; the weights and their averages after 12."""
    fixed(opt, 0, 6)
    found = {"model": model.state_dict(), "optimizer": get_optimizer_state_dict(model, opt)}
    dcp.save(found, checkpoint_id=folder, no_dist=alone)
    fixed(opt, 6, 12)
    return whole([*model.parameters(), *opt.averaged_parameters()])


def resumed(model, opt, folder, expected, *, alone):
    """Go on from the checkpoint; the distance to the weights and averages of the run that wrote it."""
    found = {"model": model.state_dict(), "optimizer": get_optimizer_state_dict(model, opt)}
    dcp.load(found, checkpoint_id=folder, no_dist=alone)
    model.load_state_dict(found["model"])
    set_optimizer_state_dict(model, opt, found["optimizer"])
    assert opt.diagnostics().step == 6
    fixed(opt, 6, 12)
    found = whole([*model.parameters(), *opt.averaged_parameters()])
    return max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))


def fixed(opt, start, stop):
    params = [p for group in opt.param_groups for p in group["params"]]
    for k in range(start, stop):
        generator = torch.Generator().manual_seed(k)
        for p in params:
            g = torch.randn(p.shape, generator=generator)
            p.grad = distribute_tensor(g, p.device_mesh, p.placements) if isinstance(p, DTensor) else g
        opt.step()


def sharded(mesh, **options):
    model = network()
    fully_shard(model, mesh=mesh)
    return model, Shampoo(model, engine=InlineEngine(3), **OPTIONS, **options)


def replicated(mesh, **options):
    model = network()
    return model, Shampoo(model, shard=mesh, engine=InlineEngine(3), **OPTIONS, **options)


def plain(mesh, **options):
    model = network()
    return model, Shampoo(model, engine=InlineEngine(3), **OPTIONS, **options)


MAKERS = {
    "sharded": (sharded, {"averaging": "ema", "preconditioned_dims": "one_sided"}),
    "replicated": (replicated, {"averaging": "schedule_free", "state_dtype": "bfloat16"}),
}


def refusals(rank, size, store):
    """A rank that differs is an error that names it, on all ranks; so are parameters that are not served."""
    mesh = init_device_mesh("cpu", (size,))
    opt = Shampoo(placed(mesh, weights()), **OPTIONS)
    give([p for p in opt.param_groups[0]["params"]], 0)
    if rank == 1:
        opt.param_groups[0]["params"][4].grad = None
    refused(RankError, "'0/4' must be on all ranks or on none; it is missing on 1", opt.step)
    opt = Shampoo(placed(mesh, weights()), **OPTIONS)
    train(opt, 0, 1)
    opt.param_groups[0]["lr"] *= 1 + (rank == 1)
    refused(RankError, "one learning rate, weight decay and momentum; rank", lambda: train(opt, 1, 2))
    opt = Shampoo(placed(mesh, weights()), **{**OPTIONS, "block_size": 8 if rank == 1 else 16})
    refused(RankError, "same parameters, options and step; rank", lambda: train(opt, 0, 1))
    opt, files = Shampoo(loose(), shard=True, **OPTIONS), []
    for step in range(2):
        train(opt, step, step + 1)
        files.append(opt.state_dict())
    opt = Shampoo(loose(), shard=True, **OPTIONS)
    refused(RankError, "options and step; rank", lambda: opt.load_state_dict(files[0 if rank == 1 else 1]))
    columns = [torch.nn.Parameter(distribute_tensor(torch.ones(8, 8), mesh, [Shard(1)]))]
    refused(TypeError, "shard dimension 0", lambda: Shampoo(columns))
    elsewhere = [torch.ones(8, 8, device="meta")]
    refused(
        ValueError, "must have a backend for parameters on meta", lambda: check_devices(mesh.get_group(), elsewhere)
    )
    both = [*elsewhere, *loose()]
    refused(ValueError, "on one device, got cpu, meta", lambda: check_devices(mesh.get_group(), both))


def refused(kind, text, call):
    try:
        call()
    except kind as error:
        assert text in str(error), error
    else:
        raise AssertionError(f"not refused: {text}")


def main(scenario, rank, size, store):
    torch.set_num_threads(1)
    limit = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=limit)
    for name in scenario.split(","):
        globals()[name](rank, size, Path(store))
    print("done", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
