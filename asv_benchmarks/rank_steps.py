"""A step on several processes, with roots dealt and with all roots on each rank.

``torchrun --nproc-per-node N asv_benchmarks/rank_steps.py``: processor seconds and seconds of a step, roots and bytes
of a rank, over gloo, with one thread each. Six layers of 512 x 512, refreshed every second step: six roots in a step.
"""

from __future__ import annotations

import time

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from matroot_optim import InlineEngine, RankEngine
from matroot_optim.torch import Shampoo

STEPS = 20


def run(engine: InlineEngine | RankEngine) -> tuple[list[float], list[torch.Tensor]]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(512, 512, bias=False) for _ in range(6)))
    parallel = DistributedDataParallel(model)
    opt = Shampoo(model, lr=1e-3, refresh_every=2, refresh_growth=0.0, start_step=1, engine=engine)
    for step in range(10 + STEPS):
        if step == 10:  # after one interval, everything is compiled and allocated
            dist.barrier()
            begin, own = time.perf_counter(), time.process_time()
        x = torch.randn(8, 512, generator=torch.Generator().manual_seed(step * dist.get_world_size() + dist.get_rank()))
        opt.zero_grad()
        parallel(x).square().mean().backward()
        opt.step()
    times = [(time.process_time() - own) / STEPS, (time.perf_counter() - begin) / STEPS]
    return times, [p.detach().clone() for p in model.parameters()]


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    (cpu, wall), want = run(InlineEngine())
    engine = RankEngine()
    (less_cpu, less_wall), got = run(engine)
    same = all(torch.equal(a, b) for a, b in zip(want, got, strict=True))
    clock, n = engine.clock, 10 + STEPS
    text = (
        f"rank {dist.get_rank()} of {dist.get_world_size()}: all roots on each rank {1e3 * cpu:.1f} ms of processor, "
        f"{1e3 * wall:.1f} ms; dealt {1e3 * less_cpu:.1f} ms, {1e3 * less_wall:.1f} ms; {clock.roots / n:.2f} roots "
        f"and {clock.bytes_sent / n / 1e3:.0f} kB sent a step, {clock.exchanges} exchanges; same bits: {same}"
    )
    for rank in range(dist.get_world_size()):
        if rank == dist.get_rank():
            print(text, flush=True)
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
