"""Images: residual networks with batch normalization (He et al. 2016) on 32 x 32 images (CIFAR-10)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .problem import Problem, Workload, batches, generator

#: Channels of the three stages, blocks in each, pictures in a batch.
SIZES = {
    "tiny": ((4, 4, 8), 1, 8),
    "small": ((16, 32, 64), 1, 64),
    "medium": ((64, 128, 256), 3, 512),
    "paper": ((256, 512, 1024, 2048), 4, 32768),  # ResNet-50 on ImageNet, whose loader is not here
}


@lru_cache(maxsize=1)
def _pictures(folder: str) -> dict[str, Any]:
    with np.load(os.path.join(folder, "cifar10_18k.npz")) as file:
        pictures = {f"x_{part}": _decoded(file[f"x_{part}_delta"]) for part in ("train", "test")}
        labels = {f"y_{part}": torch.from_numpy(file[f"y_{part}"].astype(np.int64)) for part in ("train", "test")}
    return {**pictures, **labels}


def _decoded(differences: Any) -> Any:
    """Pictures (N, 3, 32, 32), of mean 0 and deviation near 1."""
    q = np.cumsum(np.cumsum(differences, axis=2, dtype=np.uint8), axis=3, dtype=np.uint8)
    q[0] += q[1]
    q[2] += q[1]
    return (torch.from_numpy(q.transpose(1, 0, 2, 3).copy()).float() / 255 - 0.47) / 0.25


class Residual(nn.Module):
    """Two 3 x 3 convolutions beside the identity, or beside a 1 x 1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        self.short = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Any) -> Any:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + self.short(x))


class ResNet(nn.Module):
    """Logits of the ten classes."""

    def __init__(self, channels: tuple[int, ...], depth: int) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, channels[0], 3, 1, 1, bias=False), nn.BatchNorm2d(channels[0])
        blocks, width = [], channels[0]
        for stage, outputs in enumerate(channels):
            for k in range(depth):
                blocks.append(Residual(width, outputs, 2 if stage and k == 0 else 1))
                width = outputs
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(width, 10)

    def forward(self, x: Any) -> Any:
        return self.head(self.blocks(F.relu(self.norm(self.stem(x)))).mean((2, 3)))


def load(folder: str, size: str, seed: int) -> Problem:
    channels, depth, batch = SIZES[size]
    data = _pictures(folder)
    rng = generator(seed)
    model = ResNet(channels, depth)

    def losses() -> Iterator[Callable[[], Any]]:
        for index in batches(len(data["y_train"]), batch, rng):
            x, y = _shaken(data["x_train"][index], rng), data["y_train"][index]
            yield lambda x=x, y=y: F.cross_entropy(model(x), y)

    def evaluate() -> float:
        held = zip(data["x_test"].split(500), data["y_test"].split(500), strict=True)
        parts = [float(F.cross_entropy(model(x), y)) for x, y in held]
        return sum(parts) / len(parts)

    def settle() -> None:
        norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
        momentum = [part.momentum for part in norms]
        for part in norms:
            part.reset_running_stats()
            part.momentum = None  # a plain mean over the batches
        model.train()
        moves = np.random.default_rng(0)
        for x in data["x_train"][: 16 * batch].split(batch):
            model(_shaken(x, moves))
        for part, kept in zip(norms, momentum, strict=True):
            part.momentum = kept

    return Problem(model, losses(), evaluate, ["stem.weight", "head.weight"], settle)


def _shaken(x: Any, rng: Any) -> Any:
    """Pictures moved by up to four pixels and mirrored by chance."""
    padded = F.pad(x, (4, 4, 4, 4))
    rows, columns, mirrored = rng.integers(0, 9, len(x)), rng.integers(0, 9, len(x)), rng.random(len(x)) < 0.5
    moved = [padded[k, :, r : r + 32, c : c + 32] for k, (r, c) in enumerate(zip(rows, columns, strict=True))]
    return torch.stack([y.flip(-1) if m else y for y, m in zip(moved, mirrored, strict=True)])


IMAGES = Workload(
    "images", "cross entropy", True, {"tiny": 6, "small": 320, "medium": 10_000, "paper": 2_512}, 16, load
)
