"""Language models on running text (text8): causal, and masked as in BERT."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any

import torch
from torch.nn import functional as F

from .problem import Problem, Workload, generator
from .transformer import LanguageModel
from .words import MASK, SPECIAL, UNKNOWN, Vocabulary, read_lines

#: Width, heads, depth, words, length of a sequence, sequences in a batch.
SIZES = {
    "tiny": (32, 2, 1, 200, 16, 4),
    "small": (96, 4, 2, 4096, 64, 16),
    "medium": (384, 6, 6, 16384, 256, 64),
    "paper": (1024, 16, 24, 30522, 512, 32768),
}
HELD_OUT = 0.1
EVALUATED = 160  # sequences of the held-out text


@lru_cache(maxsize=1)
def _text(folder: str, words: int) -> tuple[Any, Any, int]:
    """Numbers of the words, for training and held out, and the size of the vocabulary."""
    name = next(name for name in sorted(os.listdir(folder)) if name.startswith("text8"))
    lines = [line.split() for line in read_lines(os.path.join(folder, name))]
    cut = int(len(lines) * (1 - HELD_OUT))
    vocabulary = Vocabulary(lines[:cut], words)
    parts = (lines[:cut], lines[cut:])
    train, held = (torch.tensor([n for line in part for n in vocabulary.encode(line)]) for part in parts)
    return train, held, vocabulary.size


def load(folder: str, size: str, seed: int, *, causal: bool, plain: bool = False) -> Problem:
    """`plain` leaves the embedding as torch draws it, from N(0, 1): the tied head then begins with logits near 10."""
    width, heads, depth, words, length, batch = SIZES[size]
    train, held, words = _text(folder, words)
    rng = generator(seed)
    model = LanguageModel(words, width, heads, depth, length, dropout=0.0, causal=causal)
    if plain:
        torch.nn.init.normal_(model.embedding.weight)
        model.scale = 1.0

    def loss(x: Any, chance: Any) -> Any:
        """Of (batch, length + 1) words; `chance` is uniform in [0, 1), and below 0.15 a word is to be guessed."""
        if causal:
            return F.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())
        x, guess = x[:, :-1], chance[:, :-1] < 0.15
        shown = torch.where(guess, MASK, x)
        other = (chance[:, :-1] * 1e4 % words).long().clamp(min=SPECIAL)
        shown = torch.where(chance[:, :-1] < 0.015, other, shown)  # a tenth of them is another word,
        shown = torch.where(chance[:, :-1] > 1 - 0.015, x, shown)
        return F.cross_entropy(model(shown)[guess & (x != UNKNOWN)], x[guess & (x != UNKNOWN)])

    def cut(text: Any, starts: Any) -> Any:
        return text[torch.as_tensor(starts)[:, None] + torch.arange(length + 1)]

    def losses() -> Iterator[Callable[[], Any]]:
        while True:
            x = cut(train, rng.integers(0, len(train) - length, batch))
            chance = torch.from_numpy(rng.random(x.shape))
            yield lambda x=x, chance=chance: loss(x, chance)

    def evaluate() -> float:
        x = cut(held, torch.linspace(0, len(held) - length - 1, EVALUATED).long())
        chance = torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
        parts = [float(loss(a, b)) for a, b in zip(x.split(32), chance.split(32), strict=True)]
        return sum(parts) / len(parts)

    return Problem(model, losses(), evaluate, ["embedding.weight"])


_STEPS = {"tiny": 6, "small": 300, "medium": 5000, "paper": 7_000}
CAUSAL = Workload("language", "cross entropy per word", True, _STEPS, 15, partial(load, causal=True))
MASKED = Workload("masked", "cross entropy per masked word", True, _STEPS, 15, partial(load, causal=False))
PLAIN = Workload("plain", "cross entropy per word", True, _STEPS, 15, partial(load, causal=True, plain=True))
