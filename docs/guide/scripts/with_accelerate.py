"""Train with accelerate: ``accelerate launch with_accelerate.py``, or ``torchrun``, or ``python``."""

import torch
from accelerate import Accelerator

from matroot_optim import RankEngine
from matroot_optim.torch import Shampoo

accelerator = Accelerator(cpu=not torch.cuda.is_available())  # connects the processes
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 4))
engine = RankEngine()
optimizer = Shampoo(model, lr=0.02, engine=engine)
x = torch.randn(256, 16)
batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, torch.sin(x[:, :4])), 16)
model, optimizer, batches = accelerator.prepare(model, optimizer, batches)

for _epoch in range(10):
    for inputs, targets in batches:
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(inputs), targets)
        accelerator.backward(loss)
        optimizer.step()

print(f"rank {accelerator.process_index} of {accelerator.num_processes}: {engine.clock.roots} roots, loss {loss:.4f}")
accelerator.end_training()
