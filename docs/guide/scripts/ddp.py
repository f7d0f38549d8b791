"""Train with DistributedDataParallel, each root on one rank: ``torchrun --nproc-per-node 2 ddp.py [CHECKPOINT]``."""

import os
import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from matroot_optim import RankEngine
from matroot_optim.torch import Shampoo

cards = torch.cuda.is_available()
dist.init_process_group("nccl" if cards else "gloo")
rank, size = dist.get_rank(), dist.get_world_size()
device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cards else torch.device("cpu")

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.Tanh(), torch.nn.Linear(128, 10)).to(device)
parallel = DistributedDataParallel(model)
engine = RankEngine(timeout=300.0)
optimizer = Shampoo(model, lr=0.02, engine=engine)

path, first = sys.argv[1] if len(sys.argv) > 1 else None, 0
if path and os.path.exists(path):  # torchrun --max-restarts starts the script again after a rank has died
    saved = torch.load(path, map_location=device, weights_only=True)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    first = saved["step"]

for step in range(first, 20):
    data = torch.Generator().manual_seed(step * size + rank)  # each rank has its own part of the batch
    x = torch.randn(32, 64, generator=data).to(device)
    loss = torch.nn.functional.mse_loss(parallel(x), torch.sin(x[:, :10]))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if path and rank == 0 and (step + 1) % 10 == 0:  # rank 0 alone: no other rank takes part
        saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
        torch.save(saved, path + ".new")
        os.replace(path + ".new", path)

print(f"rank {rank} of {size}: {engine.clock.roots} roots, {engine.clock.bytes_sent} bytes, loss {loss.item():.4f}")
dist.destroy_process_group()
