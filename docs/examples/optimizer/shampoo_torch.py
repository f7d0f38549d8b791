"""
Shampoo in torch, beside AdamW
==============================

`matroot_optim.torch.Shampoo` is a `torch.optim.Optimizer`: parameter groups, schedulers and state dicts work as in
torch. Both optimizers train the same small network on 8 x 8 digits.
"""

import io

import matplotlib.pyplot as plt
import torch

from matroot.demo.network import load_digits
from matroot_optim.torch import Shampoo

torch.set_num_threads(1)
parts = [(torch.from_numpy(p.images).float(), torch.from_numpy(p.labels)) for p in load_digits().split(1437)]
(images, labels), (test_images, test_labels) = parts


def train(make, steps=200):
    """Train the network with the optimizer that `make` makes; the losses on held-out digits, and the rest."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    weights = [p for p in model.parameters() if p.ndim > 1]
    biases = [p for p in model.parameters() if p.ndim == 1]
    optimizer = make([{"params": weights}, {"params": biases, "weight_decay": 0.0}])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    held_out = []
    for _ in range(steps):
        rows = torch.randint(len(labels), (128,))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            held_out.append(torch.nn.functional.cross_entropy(model(test_images), test_labels).item())
    return held_out, model, optimizer


adamw, _, _ = train(lambda groups: torch.optim.AdamW(groups, lr=3e-3, weight_decay=1e-2))
shampoo, model, optimizer = train(lambda groups: Shampoo(groups, lr=3e-3, weight_decay=1e-2))
accuracy = (model(test_images).argmax(dim=1) == test_labels).double().mean().item()
print(optimizer.diagnostics())
print(f"accuracy on held-out digits: {accuracy:.3f}")

# %%
# A checkpoint holds tensors and numbers only.

torch.save(optimizer.state_dict(), file := io.BytesIO())
optimizer.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
print(f"{file.tell() / 1e6:.1f} MB")

# %%
fig, axis = plt.subplots(figsize=(7, 4), layout="constrained")
axis.semilogy(adamw, label="AdamW")
axis.semilogy(shampoo, label="Shampoo")
axis.set(xlabel="step", ylabel="cross entropy of held-out digits")
axis.legend()

# %%
# At the same learning rate Shampoo ends lower; its steps cost more. One small network at one rate is an illustration:
# :doc:`/performance/training` compares optimizers with tuned rates on four workloads.
