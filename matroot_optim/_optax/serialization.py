"""States for flax's serialization, if the program has imported it: flax knows no classes that jax knows."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any


def serializable(kind: type[Any]) -> None:
    """Let `flax.serialization` write and read the arrays of a state by their names."""
    flax: Any = sys.modules.get("flax.serialization")
    if flax is None:
        return

    def read(state: Any, saved: Any) -> Any:
        if saved.keys() != state.arrays.keys():
            odd = sorted(saved.keys() ^ state.arrays.keys())[0]
            raise ValueError(f"the saved state must have the arrays of this one, got another set: {odd!r}")
        return replace(state, arrays=dict(saved))

    flax.register_serialization_state(kind, lambda state: dict(state.arrays), read, override=True)
