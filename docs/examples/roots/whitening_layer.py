"""
A whitening layer
=================

Batch normalization gives the features of a layer variance 1. A whitening layer also removes their correlations: it
multiplies by :math:`C^{-1/2}`, C the covariance of the batch, and training goes through the root. Gradients through
``torch.linalg.eigh`` fail at equal eigenvalues, those of `matroot.inv_sqrtm` do not.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

import matroot


class Whitening(nn.Module):
    """Center and whiten a batch (m, n); the ridge is relative to the largest eigenvalue."""

    def __init__(self, ridge=1e-4):
        super().__init__()
        self.ridge = ridge

    def forward(self, x):
        x = x - x.mean(dim=0)
        return x @ matroot.inv_sqrtm(x.mT @ x / len(x), regularization=self.ridge)


# %%
# Equal eigenvalues: the gradient of :math:`\|C^{-1/2}\|_F^2 = \mathrm{tr}\,C^{-1}` at C = I is -I.

C = torch.eye(3, requires_grad=True)
matroot.inv_sqrtm(C).square().sum().backward()
print(C.grad)

# %%
# Sixteen sensors see one strong common signal and weak differences, and the classes depend on all sources alike. Two
# layers with the layer between them are trained by plain gradient descent.

generator = torch.Generator().manual_seed(0)
sources = torch.randn(4096, 16, generator=generator)
sensors = sources @ torch.diag(torch.logspace(0, -2, 16)) @ torch.randn(16, 16, generator=generator)
labels = (sources @ torch.randn(16, 5, generator=generator)).argmax(dim=1)


def train(layer, rate=0.3, steps=100):
    """Losses of every step, and the condition number of the covariance that the last layer sees."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), layer, nn.Linear(16, 5))
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    losses = []
    for _ in range(steps):
        rows = torch.randint(len(sensors), (512,))
        loss = nn.functional.cross_entropy(model(sensors[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    features = model[:2](sensors).detach()
    return losses, np.linalg.cond(torch.cov(features.mT).numpy())


fig, axis = plt.subplots(figsize=(7, 4), layout="constrained")
for name, layer in (("batch normalization", nn.BatchNorm1d(16, affine=False)), ("whitening", Whitening(1e-6))):
    losses, cond = train(layer)
    axis.plot(losses, label=f"{name}: the last layer sees cond {cond:.1e}")
    print(f"{name}: loss {np.mean(losses[-10:]):.3f}, cond {cond:.1e}")
axis.set(xlabel="step", ylabel="cross entropy of the batch", ylim=(0, None))
axis.legend()

# %%
# Batch normalization leaves the weak directions weak, and gradient descent hardly learns them. Whitening helps where
# they matter; where the classes are in the strong directions, as in images of digits, it is no gain.
