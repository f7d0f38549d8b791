"""What a process of the tests of ranks does: ``python -m optim.rank_process SCENARIO RANK SIZE STORE``."""

from __future__ import annotations

import datetime
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from matroot_optim import ExecutorEngine, InlineEngine, RankEngine, RankError
from matroot_optim.ranks import torch_group
from matroot_optim.ranks.base import Alone
from matroot_optim.torch import Shampoo

RUNS = [("staggered", 0, 1024), ("interval", 5, 32)]  # more of them, of threads, in test_optim_ranks


def net(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(64, 96), torch.nn.Tanh(), torch.nn.Linear(96, 24))


def optimizer(model, schedule, lag, block_size, engine, **more):
    options = {"lr": 0.01, "refresh_every": 4, "ridge": 1e-4, "start_step": 3, **more}
    return Shampoo(model.parameters(), schedule=schedule, block_size=block_size, engine=engine, **options)


def train(model, opt, start, stop, rank, size):
    for k in range(start, stop):
        x = torch.randn(8 * size, 64, generator=torch.Generator().manual_seed(k)).chunk(size)[rank]
        opt.zero_grad()
        (model(x) - x[:, :24].sin()).square().mean().backward()
        opt.step()


def same(rank, size, store):
    """DDP with roots dealt gives the bits of DDP with all roots on each rank, and every root is computed once."""
    for schedule, lag, block_size in RUNS:
        weights = []
        counts = []
        for engine in (InlineEngine(lag), RankEngine(None, inner(lag), timeout=60)):
            with engine if isinstance(engine, RankEngine) else ThreadPoolExecutor(1):
                model = DistributedDataParallel(net())
                opt = optimizer(model, schedule, lag, block_size, engine)
                train(model, opt, 0, 9, rank, size)
                if rank == 0 and isinstance(engine, RankEngine):
                    opt.state_dict()  # alone
                train(model, opt, 9, 12, rank, size)
                weights.append([p.detach().clone() for p in model.parameters()])
                if isinstance(engine, RankEngine):
                    counts = torch.tensor([engine.clock.roots, engine.clock.exchanges, engine.clock.failures])
        assert all(torch.equal(p, q) for p, q in zip(*weights, strict=True)), (schedule, lag)
        everyone = [torch.empty_like(counts) for _ in range(size)]
        dist.all_gather(everyone, counts)
        alone = RankEngine(Alone(), InlineEngine(lag))
        model = net()
        train(model, optimizer(model, schedule, lag, block_size, alone), 0, 12, 0, 1)
        assert sum(int(c[0]) for c in everyone) == alone.clock.roots
        assert len({int(c[1]) for c in everyone}) == 1
        assert all(int(c[0]) > 0 and int(c[2]) == 0 for c in everyone)


def inner(lag):
    return ExecutorEngine(lambda: ThreadPoolExecutor(1), lag=lag, timeout=60) if lag else InlineEngine()


def groups(rank, size, store):
    """A mesh of one dimension, and a subgroup, are groups; a mesh of two is not."""
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (size,), mesh_dim_names=("data",))
    assert RankEngine(mesh).ranks.size == RankEngine(mesh["data"]).ranks.size == size
    assert RankEngine().ranks.rank == rank
    two = init_device_mesh("cpu", (1, size), mesh_dim_names=("a", "b"))
    assert RankEngine(two["b"]).ranks.size == size
    try:
        RankEngine(two)
    except ValueError as error:
        assert "must have one dimension" in str(error)
    else:
        raise AssertionError("a mesh of two dimensions was taken")
    model = net()
    opt = optimizer(model, "interval", 0, 32, RankEngine(two["b"]))
    train(model, opt, 0, 5, 0, 1)


def lost(rank, size, store):
    """A rank that is late, and then one that dies, is an error that names it, on all others, in time."""
    torch_group.PATIENCE = 1.0
    for what, limit in (("late", 10.0), ("dead", 60.0)):
        model = net()
        engine = RankEngine(timeout=limit)
        opt = optimizer(model, "interval", 0, 32, engine, refresh_growth=0.0, start_step=1)
        train(model, opt, 0, 4, 0, 1)
        if rank == 1:
            if what == "dead":
                os.kill(os.getpid(), signal.SIGKILL)
            while len(list(Path(store).parent.glob("noticed*"))) < size - 1:
                time.sleep(0.1)
            continue
        begin = time.perf_counter()
        try:
            train(model, opt, 4, 6, 0, 1)
        except RankError as error:
            text = str(error)
        else:
            raise AssertionError(f"a {what} rank was not noticed")
        assert "rank 1 of 3 did not come to exchange" in text, text
        print(what, f"{time.perf_counter() - begin:.1f} s:", text, flush=True)
        Path(store).with_name(f"noticed{rank}").touch()


def main(scenario, rank, size, store):
    torch.set_num_threads(1)
    model = net()
    train(model, optimizer(model, "interval", 0, 32, None, start_step=1), 0, 2, 0, 1)  # compiles kernels
    limit = datetime.timedelta(seconds=120)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=limit)
    for name in scenario.split(","):
        globals()[name](rank, size, store)
    print("done", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
