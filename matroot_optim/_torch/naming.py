"""The names of parameters, where the optimizer was given them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

#: The path of a parameter in a message, alone or before the name of an entry.
_PATH = re.compile(r"(?<=')\d+/\d+(?=['/])")


def names_of(groups: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the names of named parameters, by path."""
    named = [(g, group["params"], group.get("param_names") or ()) for g, group in enumerate(groups)]
    return {
        f"{g}/{i}": str(name) for g, params, names in named if len(names) == len(params) for i, name in enumerate(names)
    }


@contextmanager
def naming(groups: Sequence[Mapping[str, Any]]) -> Iterator[None]:
    """Let errors have the names of parameters in the place of their paths "group/index"."""
    try:
        yield
    except (TypeError, ValueError, FloatingPointError) as wrong:
        names = names_of(groups)
        wrong.args = tuple(
            _PATH.sub(lambda found: names.get(found[0], found[0]), x) if isinstance(x, str) else x for x in wrong.args
        )
        raise
