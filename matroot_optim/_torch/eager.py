"""Steps inside of `torch.compile`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


@torch.compiler.disable  # type: ignore[untyped-decorator]
def outside_of_graphs(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function that reads values of tensors, and would be cut into many graphs."""
    return function(*args)
