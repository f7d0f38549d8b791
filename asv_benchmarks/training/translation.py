"""Translation: an encoder-decoder Transformer on sentence pairs (Multi30K, English to French)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from .problem import Problem, Workload, batches, generator
from .transformer import Translator
from .words import BEGIN, END, PAD, Vocabulary, read_lines, tokens

#: Width, heads, depth of each half, words of each language, sentences in a batch.
SIZES = {
    "tiny": (32, 2, 1, 200, 16),
    "small": (96, 4, 2, 4000, 64),
    "medium": (256, 8, 3, 8000, 128),
    "paper": (1024, 16, 6, 32000, 1536),
}
LENGTH = 24  # longer sentences are left out of training and cut in the evaluation


@lru_cache(maxsize=1)
def _text(folder: str, words: int) -> tuple[Any, int, int]:
    """Padded sentences of both languages, {"train", "val"}, and the sizes of the vocabularies."""
    raw = {
        (part, language): [tokens(line) for line in read_lines(_find(folder, f"{part}.{language}"))]
        for part in ("train", "val")
        for language in ("en", "fr")
    }
    vocabulary = {language: Vocabulary(raw["train", language], words) for language in ("en", "fr")}
    pairs: dict[str, Any] = {}
    for part in ("train", "val"):
        kept = [
            (en, fr)
            for en, fr in zip(raw[part, "en"], raw[part, "fr"], strict=True)
            if part == "val" or max(len(en), len(fr)) <= LENGTH - 2
        ]
        pairs[part] = tuple(
            torch.tensor(np.stack([_padded(vocabulary[language].encode(pair[k])) for pair in kept]))
            for k, language in enumerate(("en", "fr"))
        )
    return pairs, vocabulary["en"].size, vocabulary["fr"].size


def _find(folder: str, name: str) -> str:
    path = os.path.join(folder, name)
    return path if os.path.exists(path) else f"{path}.gz"


def _padded(numbers: list[int]) -> Any:
    row = np.full(LENGTH, PAD, np.int64)
    sentence = [BEGIN, *numbers[: LENGTH - 2], END]
    row[: len(sentence)] = sentence
    return row


def load(folder: str, size: str, seed: int) -> Problem:
    width, heads, depth, words, batch = SIZES[size]
    pairs, source, target = _text(folder, words)
    rng = generator(seed)
    model = Translator(source, target, width, heads, depth, LENGTH, dropout=0.1)

    def loss(en: Any, fr: Any, smoothing: float = 0.0) -> Any:
        en, fr = en[:, : int((en != PAD).sum(1).max())], fr[:, : int((fr != PAD).sum(1).max())]
        logits = model(en, fr[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), fr[:, 1:].flatten(), ignore_index=PAD, label_smoothing=smoothing)

    def losses() -> Iterator[Callable[[], Any]]:
        for index in batches(len(pairs["train"][0]), batch, rng):
            en, fr = (x[index] for x in pairs["train"])
            yield lambda en=en, fr=fr: loss(en, fr, 0.1)

    def evaluate() -> float:
        held = [x.split(128) for x in pairs["val"]]
        weights = [int((fr[:, 1:] != PAD).sum()) for fr in held[1]]
        return sum(float(loss(en, fr)) * w for en, fr, w in zip(*held, weights, strict=True)) / sum(weights)

    return Problem(model, losses(), evaluate, ["source.weight", "target.weight"])


TRANSLATION = Workload(
    "translation", "cross entropy per word", True, {"tiny": 6, "small": 280, "medium": 5000, "paper": 100_000}, 14, load
)
