"""The interface between a workload and the training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Problem:
    """A model, the loss of batch after batch, and a figure on data that is not trained on.

    Attributes
    ----------
    model : torch.nn.Module
    losses : iterator of functions
        Each evaluates the training loss of the next batch; there is no end.
    evaluate : callable
        The figure on the held-out data: a loss where less is better, or a score where more is.
    tables : list of str
        Names of the parameters that the first-order part of Muon keeps: embeddings and output layers.
    settle : callable
        Makes what else the model keeps, as batch normalization its means, anew for weights that were averaged.
    """

    model: torch.nn.Module
    losses: Iterator[Callable[[], Any]]
    evaluate: Callable[[], float]
    tables: list[str]
    settle: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Workload:
    """A workload by name.

    Attributes
    ----------
    figure : str
        What `Problem.evaluate` gives, in words.
    less_is_better : bool
    steps : dict
        Length of a run for every size.
    every : int
        Steps between two evaluations.
    load : callable
        ``load(folder, size, seed)`` gives the `Problem`; the folder holds the data set.
    rates : float
        Factor of the rates that are tried, the same for all optimizers.
    """

    name: str
    figure: str
    less_is_better: bool
    steps: dict[str, int]
    every: int
    load: Callable[[str, str, int], Problem]
    rates: float = 1.0


def batches(count: int, size: int, rng: Any) -> Iterator[Any]:
    """Random batches of indices for ever, epoch after epoch without the incomplete last one."""
    while True:
        order = rng.permutation(count)
        for start in range(0, count - size + 1, size):
            yield torch.from_numpy(order[start : start + size])


def generator(seed: int) -> Any:
    """A numpy generator for the order of the data; torch's own is seeded for weights and dropout."""
    torch.manual_seed(seed)
    return np.random.default_rng(seed)
