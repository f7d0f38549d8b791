"""What a process of the tests of all orders does: ``python -m optim.order_process SCENARIO RANK SIZE STORE``.

The fastest method of these roots depends on their number. All is in float64, which keeps the last digits of a method.
"""

from __future__ import annotations

import datetime
import sys

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from matroot_optim import InlineEngine, RankEngine
from matroot_optim.torch import SOAP, KLShampoo, Shampoo
from optim.table_process import placed, same, train

#: Orders from 40 to 320: few and many of each, so that a rank has fewer in a call than one process.
BLOCKS = [(256, 192)] * 5 + [(64, 48)] * 3 + [(130, 128)] * 4 + [(320, 40)]
#: Tables whose products have the same bits in every share of the rows, and blocks that have roots of their orders.
TABLES = [(3072, 256)] * 3 + [(1536, 96)] * 2 + [(260, 256)] * 4 + [(100, 96)] * 3
OPTIONS = {"lr": 0.01, "ridge": 1e-3, "block_size": 320, "start_step": 1, "refresh_growth": 0.0, "graft": "none"}
CASES = [
    (Shampoo, {"refresh_every": 2}),
    (Shampoo, {"refresh_every": 4, "schedule": "interval", "lag": 2}),
    (Shampoo, {"refresh_every": lambda step: 1 + step // 4, "graft_per_block": True, "graft": "sgd"}),
    (KLShampoo, {"refresh_every": 6, "refresh_growth": 0.1}),
    (SOAP, {"refresh_every": 4, "graft": "adam"}),
]


def drawn(shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def loose(shapes):
    return [torch.nn.Parameter(x) for x in drawn(shapes)]


def weights(kind, params, lag=0, engine=None, steps=8, exact=False, **options):
    engine = RankEngine(engine=InlineEngine(lag)) if engine else InlineEngine(lag)
    return train(kind(params, engine=engine, **{**OPTIONS, **options}), 0, steps, exact=exact)


def owned(rank, size, store):
    """Blocks with owners have the bits of one process, under fully_shard's placements and for whole parameters."""
    mesh = init_device_mesh("cpu", (size,))
    for kind, options in CASES:
        expected = weights(kind, loose(BLOCKS), **options)
        for params, shard in ((placed(mesh, drawn(BLOCKS)), False), (loose(BLOCKS), True)):
            check(weights(kind, params, shard=shard, **options), expected, kind, options)


def dealt(rank, size, store):
    """So have roots that are dealt to the ranks."""
    for kind, options in CASES:
        expected = weights(kind, loose(BLOCKS), **options)
        check(weights(kind, loose(BLOCKS), engine="ranks", **options), expected, kind, options)


def tables(rank, size, store):
    """So have tables, whose roots go to all ranks one by one, where no sum has a rounding."""
    mesh = init_device_mesh("cpu", (size,))
    options = {"refresh_every": 2, "preconditioned_dims": "one_sided", "steps": 4, "exact": True}
    expected = weights(Shampoo, loose(TABLES), **options)
    check(weights(Shampoo, placed(mesh, drawn(TABLES)), **options), expected, Shampoo, options)


def check(found, expected, kind, options):
    apart = [float((x - y).abs().max()) for x, y in zip(found, expected, strict=True)]
    print(kind.__name__, options, max(apart), flush=True)
    assert same(found, expected), apart


def main(scenario, rank, size, store):
    torch.set_num_threads(1)
    limit = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=limit)
    for name in scenario.split(","):
        globals()[name](rank, size, store)
        print(name, "is done", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
