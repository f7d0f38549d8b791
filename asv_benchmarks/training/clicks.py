"""Click-through: a DLRM (Naumov et al. 2019) on Criteo's logs: tables, dot products of features, dense layers."""

from __future__ import annotations

import gzip
import itertools
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .problem import Problem, Workload, batches, generator

NUMBERS, CATEGORIES = 13, 26
#: Rows of a table, width of a feature, dense layers below and above, rows in a batch.
SIZES = {
    "tiny": (50, 4, (8, 4), (8,), 16),
    "small": (2000, 16, (128, 64, 16), (256, 128), 128),
    "medium": (100_000, 64, (512, 256, 64), (512, 256), 2048),
    "paper": (10_000_000, 128, (512, 256, 128), (1024, 1024, 512, 256), 32768),
}
HELD_OUT = 1600  # the last rows: they are in the order of time


@lru_cache(maxsize=1)
def _logs(folder: str, rows: int) -> tuple[Any, Any, Any]:
    """Labels, numbers (log of 1 + x, missing as 0), and the row of every category's table."""
    lines: list[list[str]] = []
    for part in ("train", "dev", "test"):
        with gzip.open(os.path.join(folder, f"kaggle8k_{part}.tsv.gz"), "rt") as file:
            lines += [line.rstrip("\n").split("\t") for line in file]
    y = np.array([float(line[0]) for line in lines], np.float32)
    x = np.array([[float(v) if v else 0.0 for v in line[1 : 1 + NUMBERS]] for line in lines], np.float32)
    x = np.log1p(np.maximum(x, 0.0))
    columns = range(1 + NUMBERS, 1 + NUMBERS + CATEGORIES)
    hashed = [[zlib.crc32(f"{c}:{line[c]}".encode()) % rows for c in columns] for line in lines]
    return torch.from_numpy(y), torch.from_numpy(x), torch.tensor(hashed)


def _dense(sizes: tuple[int, ...], last: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for m, n in itertools.pairwise(sizes):
        layers += [nn.Linear(m, n), nn.ReLU()]
    return nn.Sequential(*(layers[:-1] if last else layers))


class DLRM(nn.Module):
    """Logits of a click, from the rows of tables and from numbers; without numbers, from the rows themselves."""

    def __init__(self, rows: Sequence[int], width: int, below: tuple[int, ...], above: tuple[int, ...]) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(count, width) for count in rows)
        for table in self.tables:
            nn.init.normal_(table.weight, std=0.05)
        self.below = _dense((NUMBERS, *below), last=False) if below else None
        features = len(rows) + bool(below)
        self.register_buffer("pairs", torch.tril_indices(features, features, -1), persistent=False)
        direct = width if below else len(rows) * width
        self.above = _dense((direct + self.pairs.shape[1], *above, 1), last=True)

    def forward(self, categories: Any, x: Any = None) -> Any:
        features = [table(categories[:, k]) for k, table in enumerate(self.tables)]
        direct = features if self.below is None else [self.below(x)]
        stacked = torch.stack(features if self.below is None else [*direct, *features], 1)
        products = (stacked @ stacked.mT)[:, self.pairs[0], self.pairs[1]]
        return self.above(torch.cat([*direct, products], 1)).squeeze(1)


def auc(scores: Any, labels: Any) -> float:
    """Area under the receiver operating characteristic: how often a click is above a non-click; ties count half."""
    _, where, counts = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[where]
    clicks = labels > 0
    n = int(clicks.sum())
    return float((rank[clicks].sum() - n * (n + 1) / 2) / (n * (len(labels) - n)))


def load(folder: str, size: str, seed: int) -> Problem:
    rows, width, below, above, batch = SIZES[size]
    y, x, categories = _logs(folder, rows)
    rng = generator(seed)
    train = len(y) - HELD_OUT
    x = (x - x[:train].mean(0)) / x[:train].std(0)
    model = DLRM([rows] * CATEGORIES, width, below, above)

    def losses() -> Iterator[Callable[[], Any]]:
        for index in batches(train, batch, rng):
            yield lambda i=index: F.binary_cross_entropy_with_logits(model(categories[i], x[i]), y[i])

    def evaluate() -> float:
        return auc(model(categories[train:], x[train:]).numpy(), y[train:].numpy())

    return Problem(model, losses(), evaluate, [f"tables.{k}.weight" for k in range(CATEGORIES)])


CLICKS = Workload("clicks", "AUC", False, {"tiny": 6, "small": 100, "medium": 20_000, "paper": 64_000}, 5, load)
