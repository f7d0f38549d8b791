"""Train with fully_shard, each block owned by one rank: ``torchrun --nproc-per-node 2 fsdp.py [FOLDER]``."""

import os
import sys

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from matroot_optim.torch import Shampoo

cards = torch.cuda.is_available()
dist.init_process_group("nccl" if cards else "gloo")
rank, size = dist.get_rank(), dist.get_world_size()
device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cards else torch.device("cpu")

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.Tanh(), torch.nn.Linear(128, 10)).to(device)
fully_shard(model, mesh=init_device_mesh(device.type, (size,)))
optimizer = Shampoo(model, lr=0.02, block_size=64)  # after fully_shard

folder, first = sys.argv[1] if len(sys.argv) > 1 else None, 0
if folder and os.path.exists(folder):  # written by any number of ranks
    weights, state = get_state_dict(model, optimizer)
    saved = {"model": weights, "optimizer": state, "step": 0}
    dcp.load(saved, checkpoint_id=folder)
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state)
    first = saved["step"]

for step in range(first, first + 20):
    data = torch.Generator().manual_seed(step * size + rank)  # each rank has its own part of the batch
    x = torch.randn(32, 64, generator=data).to(device)
    loss = torch.nn.functional.mse_loss(model(x), torch.sin(x[:, :10]))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

if folder:  # all ranks together
    weights, state = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": state, "step": first + 20}, checkpoint_id=folder)
roots = len(optimizer.diagnostics().names)
print(f"rank {rank} of {size}: owns {roots} roots, step {first + 20}, loss {loss.item():.4f}")
dist.destroy_process_group()
