"""Apps: a DLRM (Naumov et al. 2019) on Frappe's log of used apps (Baltrunas et al. 2015), split by He and Chua (2017).

A row is a user, an app, and the time and place; two rows in three are apps that the user did not use then, drawn by
chance. The middle one of the three files is trained on, the last one is held out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from .clicks import DLRM, auc
from .problem import Problem, Workload, batches, generator

#: Width of a feature, dense layers, rows in a batch.
SIZES = {
    "tiny": (4, (8,), 16),
    "small": (16, (256, 128), 256),
    "medium": (64, (512, 256), 1024),
}


@lru_cache(maxsize=1)
def _log(folder: str) -> tuple[tuple[Any, Any], tuple[Any, Any], list[int]]:
    """Labels and categories of both parts, and the rows of the table of every category."""
    read = [_rows(os.path.join(folder, f"frappe.{part}.libfm")) for part in ("validation", "test")]
    columns = np.concatenate([categories for _, categories in read]).T
    numbered = [np.unique(column, return_inverse=True) for column in columns]
    categories = torch.from_numpy(np.stack([index for _, index in numbered], 1))
    parts = categories.split([len(labels) for labels, _ in read])
    trained, held = ((torch.from_numpy(labels), part) for (labels, _), part in zip(read, parts, strict=True))
    return trained, held, [len(values) for values, _ in numbered]


def _rows(path: str) -> tuple[Any, Any]:
    with open(path, encoding="ascii") as file:
        lines = [line.split() for line in file]
    labels = np.array([line[0] == "1" for line in lines], np.float32)
    return labels, np.array([[int(entry.partition(":")[0]) for entry in line[1:]] for line in lines])


def load(folder: str, size: str, seed: int) -> Problem:
    width, above, batch = SIZES[size]
    (y, categories), (y_held, held), rows = _log(folder)
    rng = generator(seed)
    model = DLRM(rows, width, (), above)

    def losses() -> Iterator[Callable[[], Any]]:
        for index in batches(len(y), batch, rng):
            yield lambda i=index: F.binary_cross_entropy_with_logits(model(categories[i]), y[i])

    def evaluate() -> float:
        return auc(model(held).numpy(), y_held.numpy())

    return Problem(model, losses(), evaluate, [f"tables.{k}.weight" for k in range(len(rows))])


APPS = Workload("apps", "AUC", False, {"tiny": 6, "small": 450, "medium": 5_000}, 15, load, rates=4)
