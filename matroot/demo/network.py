"""A small network on real digits, in numpy, which supplies the demonstration's Kronecker statistics.

Parameters are a list of ``{"W": (m, n), "b": (n,)}``, one per layer; gradients have the same structure.
Every function is pure, so that any optimizer can be used.
"""

from collections.abc import Callable, Iterator
from importlib.resources import files
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Params = list[dict[str, Array]]


class Digits(NamedTuple):
    """Images as rows in [0, 1], with their labels."""

    images: NDArray[np.float64]  # (N, 64)
    labels: NDArray[np.int64]  # (N,)

    def split(self, train: int) -> tuple["Digits", "Digits"]:
        """Split into the first `train` images, and the rest."""
        return Digits(self.images[:train], self.labels[:train]), Digits(self.images[train:], self.labels[train:])

    def batches(self, size: int, rng: np.random.Generator) -> Iterator["Digits"]:
        """Yield the batches of one pass in random order; a last batch smaller than `size` is dropped."""
        order = rng.permutation(len(self.labels))
        for start in range(0, len(order) - size + 1, size):
            rows = order[start : start + size]
            yield Digits(self.images[rows], self.labels[rows])


def load_digits() -> Digits:
    """Load the optical digits of the UCI repository: 1,797 images of 8 x 8 pixels, divided by their largest value.

    E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, 1998, https://doi.org/10.24432/C50P49, CC BY
    4.0.
    """
    with (files("matroot.demo") / "data" / "digits.npz").open("rb") as file, np.load(file) as data:
        return Digits(data["images"].reshape(-1, 64) / 16.0, data["labels"].astype(np.int64))


def init(sizes: tuple[int, ...], rng: np.random.Generator) -> Params:
    """Draw weights of variance 2/m (He et al., 2015, eq. 10) for layers of these sizes; biases are 0."""
    return [{"W": rng.standard_normal((m, n)) * np.sqrt(2 / m), "b": np.zeros(n)} for m, n in pairwise(sizes)]


def forward(params: Params, X: Array) -> list[Array]:
    """Return the rectified input of every layer, followed by the logits."""
    inputs = [X]
    for layer in params[:-1]:
        inputs.append(np.maximum(inputs[-1] @ layer["W"] + layer["b"], 0))
    return [*inputs, inputs[-1] @ params[-1]["W"] + params[-1]["b"]]


def loss_and_gradients(params: Params, batch: Digits) -> tuple[float, Params]:
    """Compute the mean cross-entropy of a batch, and its gradient by every parameter."""
    X, y = batch
    *inputs, logits = forward(params, X)
    rows = np.arange(len(y))
    log_p = logits - logits.max(axis=1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    delta = np.exp(log_p)  # d loss / d logits = (softmax - one hot) / N
    delta[rows, y] -= 1
    delta /= len(y)
    gradients: Params = []
    for layer, A in zip(reversed(params), reversed(inputs), strict=True):
        gradients.append({"W": A.T @ delta, "b": delta.sum(axis=0)})
        delta = (delta @ layer["W"].T) * (A > 0)
    return float(-log_p[rows, y].mean()), gradients[::-1]


def accuracy(params: Params, digits: Digits) -> float:
    """Return the share of images whose largest logit is their label."""
    return float((forward(params, digits.images)[-1].argmax(axis=1) == digits.labels).mean())


class Trained(NamedTuple):
    """Result of the training."""

    params: Params
    losses: list[float]  # one per step
    weight_gradients: list[Array]  # per layer (steps kept, m, n)


def train(
    params: Params,
    digits: Digits,
    *,
    steps: int,
    every: int,
    rng: np.random.Generator,
    batch_size: int = 64,
    on_step: Callable[[], Any] = lambda: None,
) -> Trained:
    """Train for `steps` steps of stochastic gradients; keep the weight gradients of each `every`-th step."""
    velocity = [{k: np.zeros_like(w) for k, w in layer.items()} for layer in params]
    losses: list[float] = []
    kept: list[list[Array]] = [[] for _ in params]
    while len(losses) < steps:
        for batch in digits.batches(batch_size, rng):
            loss, gradients = loss_and_gradients(params, batch)
            velocity = [{k: 0.9 * v[k] + g[k] for k in g} for v, g in zip(velocity, gradients, strict=True)]
            params = [{k: w[k] - 0.1 * v[k] for k in w} for w, v in zip(params, velocity, strict=True)]
            if len(losses) % every == 0:
                for stack, g in zip(kept, gradients, strict=True):
                    stack.append(g["W"])
            losses.append(loss)
            on_step()
            if len(losses) == steps:
                break
    return Trained(params, losses, [np.stack(stack) for stack in kept])


def kronecker_statistics(G: Array) -> tuple[Array, Array]:
    """Sum ``L = sum_t G_t G_t^T`` and ``R = sum_t G_t^T G_t`` over stacked gradients (steps, m, n), as in Shampoo.

    Shampoo (V. Gupta, T. Koren and Y. Singer, ICML 2018, algorithm 1) multiplies the gradient by ``L^{-1/4}`` on the
    left and by ``R^{-1/4}`` on the right.
    """
    rows, columns = np.concatenate(list(G), axis=1), np.concatenate(list(G), axis=0)
    return rows @ rows.T, columns.T @ columns
