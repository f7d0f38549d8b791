"""What a process of the tests of tables in place does: ``python -m optim.table_process SCENARIO RANK SIZE STORE``."""

from __future__ import annotations

import datetime
import itertools
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor

from matroot_optim import ExecutorEngine, InlineEngine, RankEngine, RankError, shampoo
from matroot_optim.layout.layout import make_layout
from matroot_optim.planning.deal import plan_ranks
from matroot_optim.refresh.engines import Failure
from matroot_optim.torch import SOAP, KLShampoo, Shampoo
from optim.shard_process import placed, refused, whole

#: Tables of which some ranks have equally many rows and others not, and a matrix with blocks of their order.
SHAPES = [(400, 32), (24, 16), (801, 34), (401, 32)]
OPTIONS = {"lr": 0.01, "refresh_every": 4, "ridge": 1e-3, "block_size": 16, "start_step": 1, "refresh_growth": 0.0}
CASES = [
    (Shampoo, {}),
    (Shampoo, {"lag": 3, "state_dtype": "bfloat16"}),
    (Shampoo, {"schedule": "residual"}),
    (KLShampoo, {"schedule": "interval"}),
    (SOAP, {"start_step": None}),
    (SOAP, {"preconditioned_dims": "one_sided", "start_step": None}),
]


def optimizer(kind, params, lag=0, **options):
    engine = ExecutorEngine(lambda: ThreadPoolExecutor(1), lag=lag, timeout=60) if lag else InlineEngine()
    return kind(params, **{"engine": engine, **OPTIONS, **options})


def weights(shapes=SHAPES):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def train(opt, start, stop, *, exact=False):
    """Steps of random gradients; `exact`: of small integers, whose products have no rounding in any order."""
    for step in range(start, stop):
        generator = torch.Generator().manual_seed(step)
        for p in opt.param_groups[0]["params"]:
            g = torch.randn(p.shape, generator=generator).to(p.dtype)
            g = g.mul(2).round() if exact else g
            p.grad = distribute_tensor(g, p.device_mesh, p.placements) if isinstance(p, DTensor) else g
        opt.step()
    return whole(opt.param_groups[0]["params"])


def same(found, expected):
    return all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


def solver(opt):
    return opt._keeper.totals._solver


def dealt(rank, size, store):
    """Each root is computed once, with the bits that it has where every rank computes it, as the plan counts."""
    mesh = init_device_mesh("cpu", (size,))
    for kind, options in CASES:
        opt, again = (optimizer(kind, placed(mesh, weights()), **options) for _ in range(2))
        train(again, 0, 1)
        again._keeper.totals._tables.solver.clear()  # from here on, every rank computes each
        assert same(train(opt, 0, 13), train(again, 1, 13)), (kind, options)
        counts = torch.tensor([solver(opt).clock.roots, solver(opt).clock.failures])
        dist.all_reduce(counts)
        taken = refreshes(opt)
        print(kind.__name__, options, counts.tolist(), taken, flush=True)
        assert counts[1] == 0
        assert counts[0] == taken or options.get("lag")  # some are under way
    opt = optimizer(Shampoo, placed(mesh, weights()))
    train(opt, 0, 4)
    before = solver(opt).clock.bytes_sent
    train(opt, 4, 12)
    sent = torch.tensor(solver(opt).clock.bytes_sent - before)
    dist.all_reduce(sent)
    core = shampoo.Shampoo(**{"learning_rate" if k == "lr" else k: value for k, value in OPTIONS.items()})
    plan = plan_ranks(core, make_layout(core, {str(k): x.numpy() for k, x in enumerate(weights())}), size)
    assert int(sent) == 8 * plan.table_bytes, (int(sent), plan)
    assert plan.tables == 7


def refreshes(opt):
    """Number of roots of tables that were taken."""
    keeper, found = opt._keeper, 0
    for stack in keeper.state.layout.stacks:
        for b, (leaf, _) in enumerate(keeper.state.layout.blocks_of(stack)):
            if leaf in keeper.transfer.part.spread:
                found += sum(int(keeper.state.arrays[f"{stack.axis_name(i)}/refreshes"][b]) for i in stack.axes)
    return found


#: Tables for which sums have no rounding: their rows are whole vectors of the processor.
EXACT = [(401, 32), (1001, 48)]
#: Two whose blocks one process does not join, and a part may; their norm, which a graft needs, is a sum with roundings.
LARGE = [(1100, 16), (1100, 16)]


def alike(rank, size, store):
    """The bits of one process, and of a run that is resumed, where no sum has a rounding."""
    mesh = init_device_mesh("cpu", (size,))
    for options in (
        {"graft": "sgd"},
        {"preconditioned_dims": "one_sided", "graft": "none"},
        {"graft": "sgd", "lag": 2},
    ):
        shapes = EXACT + LARGE if options["graft"] == "none" else EXACT
        expected = train(optimizer(Shampoo, alone(shapes), **options), 0, 13, exact=True)
        opt = optimizer(Shampoo, placed(mesh, weights(shapes)), **options)
        train(opt, 0, 6, exact=True)
        folder = store.with_name(f"saved-{options['graft']}-{len(options)}")
        dcp.save(parts(opt), checkpoint_id=folder)
        found = train(opt, 6, 13, exact=True)
        assert same(found, expected), [float((x - y).abs().max()) for x, y in zip(found, expected, strict=True)]
        assert same(train(resumed(mesh, folder, shapes, **options), 6, 13, exact=True), expected), options


def resharded(rank, size, store):
    """A run that goes on with twice as many ranks, and then with one, has the bits of one process all the way."""
    meshes = [
        init_device_mesh("cpu", (size // n, n), mesh_dim_names=("others", "mine"))["mine"] for n in (size // 2, size, 1)
    ]
    options = {"graft": "sgd", "lag": 2}
    expected = train(optimizer(Shampoo, alone(), **options), 0, 15, exact=True)
    opt = optimizer(Shampoo, placed(meshes[0], weights(EXACT)), **options)
    for k, (mesh, after) in enumerate(itertools.pairwise(meshes)):
        train(opt, 5 * k, 5 * k + 5, exact=True)
        found = parts(opt)
        if rank < mesh.size():
            dcp.save(found, checkpoint_id=store.with_name(f"saved{k}"), process_group=mesh.get_group())
        dist.barrier()
        opt = resumed(after, store.with_name(f"saved{k}"), no_dist=after.size() == 1, **options)
    assert same(train(opt, 10, 15, exact=True), expected)


def alone(shapes=EXACT):
    return [torch.nn.Parameter(x) for x in weights(shapes)]


def resumed(mesh, folder, shapes=EXACT, no_dist=False, **options):
    opt = optimizer(Shampoo, placed(mesh, weights(shapes)), **options)
    loaded = parts(opt)
    dcp.load(loaded, checkpoint_id=folder, no_dist=no_dist)
    opt.load_state_dict(loaded["optimizer"])
    for p, x in zip(opt.param_groups[0]["params"], loaded["weights"], strict=True):
        with torch.no_grad():
            p.copy_(x)
    return opt


def parts(opt):
    return {"weights": [p.detach() for p in opt.param_groups[0]["params"]], "optimizer": opt.state_dict()}


class Odd(InlineEngine):
    """An engine that does something else with roots of tables on one step."""

    def __init__(self, step, act):
        super().__init__()
        self.step, self.act = step, act

    def collect(self, handle):
        return self.act() if self.due == self.step else super().collect(handle)

    def submit(self, batch):
        self.due = batch.due
        return super().submit(batch)


def fail():
    raise ValueError("no root today")


def failed(rank, size, store):
    """A root that fails on its rank is none on all ranks, which keep the old one."""
    mesh = init_device_mesh("cpu", (size,))
    for act in (fail, lambda: Failure("no root today")):
        engine = Odd(5, act) if rank == 1 else InlineEngine()
        opt = optimizer(Shampoo, placed(mesh, weights([(400, 32), (800, 48)])), engine=engine, schedule="interval")
        train(opt, 0, 13)
        arrays = opt._keeper.state.arrays
        told = [arrays[name].tolist() for name in sorted(arrays) if name.endswith(("/taken", "/skipped", "/failures"))]
        roots = torch.cat([arrays[name].flatten() for name in sorted(arrays) if name.endswith("/root")])
        everyone = [None] * size
        dist.all_gather_object(everyone, (told, roots.tolist()))
        print(told, flush=True)
        assert all(other == everyone[0] for other in everyone)
        assert solver(opt).clock.failures == 1


def different(rank, size, store):
    """A rank with other statistics of a table is named on all ranks."""
    mesh = init_device_mesh("cpu", (size,))
    opt = optimizer(Shampoo, placed(mesh, weights()), schedule="interval")
    train(opt, 0, 3)
    if rank == 1:
        for name, x in opt._keeper.state.arrays.items():
            if name.endswith("/statistic"):
                x *= 1.01
    refused(RankError, "rank 1 has statistics of size", lambda: train(opt, 3, 6))  # more than two ranks know who is odd


def copies(rank, size, store):
    """On a mesh of two dimensions, roots are dealt along both where the copies share theirs."""
    mesh = init_device_mesh("cpu", (2, size // 2), mesh_dim_names=("copies", "shards"))
    expected = train(optimizer(Shampoo, placed(mesh["shards"], weights())), 0, 13)
    engine = RankEngine(mesh["copies"], timeout=60)
    opt = optimizer(Shampoo, placed(mesh["shards"], weights()), engine=engine)
    assert same(train(opt, 0, 13), expected)
    one = optimizer(Shampoo, [torch.nn.Parameter(x) for x in weights()])
    train(one, 0, 13)
    count = torch.tensor(engine.clock.roots)
    dist.all_reduce(count)
    taken = [x.sum() for name, x in one._keeper.state.arrays.items() if name.endswith("/refreshes")]
    assert count == sum(taken), (count, taken)


def lost(rank, size, store):
    """Where a rank is late with a root of a table, or ends, the others end in time."""
    for what, limit in (("late", 5.0), ("dead", 60.0)):
        group = dist.new_group(timeout=datetime.timedelta(seconds=limit))
        engine = Odd(5, lambda what=what: leave(what, size, store)) if rank == 1 else InlineEngine()
        params = [torch.nn.Parameter(x) for x in weights([(400, 32), (800, 48)])]
        opt = optimizer(Shampoo, params, engine=engine, schedule="interval", shard=group)
        train(opt, 0, 4)
        begin = time.monotonic()
        try:
            train(opt, 4, 5)
        except RuntimeError as error:
            print(what, f"{time.monotonic() - begin:.1f} s:", str(error)[:200], flush=True)
        else:
            raise AssertionError(f"a {what} rank was not noticed")
        assert rank == 1 or time.monotonic() - begin < limit + 10
        store.with_name(f"noticed-{what}{rank}").touch()


def leave(what, size, store):
    if what == "dead":
        os.kill(os.getpid(), signal.SIGKILL)
    while len(list(store.parent.glob("noticed-late*"))) < size - 1:
        time.sleep(0.1)
    raise ValueError("late")


def main(scenario, rank, size, store):
    torch.set_num_threads(1)
    limit = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=limit)
    for name in scenario.split(","):
        globals()[name](rank, size, Path(store))
        print(name, "is done", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
