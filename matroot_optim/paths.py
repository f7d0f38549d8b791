"""Options by patterns of parameters' paths."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any


class ByPath:
    """A function of a path that gives the options of all patterns that match it; later patterns override earlier ones.

    Patterns are those of `fnmatch`. The names in a path may be joined by "/" or by "." in a pattern.

    >>> ByPath({"*.weight": {"block_size": 64}, "*.qkv.weight": {"split": 3}})("blocks/0/qkv/weight")
    {'block_size': 64, 'split': 3}
    """

    def __init__(self, rules: Mapping[str, Mapping[str, Any]]) -> None:
        self.rules = {
            pattern: {name: tuple(x) if isinstance(x, list) else x for name, x in dict(options).items()}
            for pattern, options in rules.items()
        }
        if not all(isinstance(pattern, str) for pattern in self.rules):
            raise TypeError

    def __call__(self, path: str) -> dict[str, Any]:
        names = (path, path.replace("/", "."))
        found: dict[str, Any] = {}
        for pattern, options in self.rules.items():
            if any(fnmatchcase(name, pattern) for name in names):
                found.update(options)
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByPath) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        return f"ByPath({self.rules!r})"
