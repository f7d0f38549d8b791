"""Text to numbers: a vocabulary of the most frequent words."""

from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Iterable, Sequence

#: Numbers that every vocabulary begins with.
PAD, UNKNOWN, BEGIN, END, MASK = range(5)
SPECIAL = 5

_TOKEN = re.compile(r"\w+['’]?|[^\w\s]")


def read_lines(path: str) -> list[str]:
    """Lines of a text file, gzipped or not."""
    opener = gzip.open if path.endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8") as file:
        return file.read().splitlines()


def tokens(line: str) -> list[str]:
    """Words and punctuation, in lower case."""
    return _TOKEN.findall(line.lower())


class Vocabulary:
    """The `size` - 5 most frequent words of some text; all others are UNKNOWN."""

    def __init__(self, lines: Iterable[Sequence[str]], size: int) -> None:
        counts = Counter(word for line in lines for word in line)
        kept = sorted(counts, key=lambda word: (-counts[word], word))[: size - SPECIAL]
        self.numbers = {word: number for number, word in enumerate(kept, SPECIAL)}
        self.size = SPECIAL + len(kept)

    def encode(self, words: Sequence[str]) -> list[int]:
        return [self.numbers.get(word, UNKNOWN) for word in words]
