"""Parameters by name, shape and dtype: of a known network, a JSON file, or the header of a safetensors file."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from matroot_optim.planning.networks import NETWORKS

#: Dtypes of safetensors that are parameters, with the dtype of the state.
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float32", "BF16": "float32"}
#: A header larger than this is no header.
LARGEST = 100_000_000


def parameters_of(config: str) -> dict[str, Any]:
    """Return arrays of the shapes that `config` names; their values take no memory.

    It is a name of `NETWORKS`; a .safetensors file, of which only the header is read; or a JSON file with a list of
    shapes, or an object of shapes by name. ValueError if it is none of these, OSError if the file cannot be read.
    """
    if config in NETWORKS:
        return {name: _array(name, shape) for name, shape in NETWORKS[config]()}
    path = Path(config)
    if not path.exists():
        raise ValueError(f"CONFIG must be a file or one of {', '.join(NETWORKS)}, got {config!r}")
    found = _from_safetensors(path) if path.suffix == ".safetensors" else _from_json(path)
    if not found:
        raise ValueError(f"{config} must have parameters of floating point, it has none")
    return found


def _from_safetensors(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        size = file.read(8)
        length = struct.unpack("<Q", size)[0] if len(size) == 8 else LARGEST + 1
        text = file.read(length) if length <= LARGEST else b""
    try:
        header = json.loads(text)
        tensors = {name: (x["dtype"], x["shape"]) for name, x in header.items() if name != "__metadata__"}
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise ValueError(f"{path} must have the header of a safetensors file: {error}") from error
    return {name: _array(name, shape, FLOATS[kind]) for name, (kind, shape) in tensors.items() if kind in FLOATS}


def _from_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} must be JSON: {error}") from error
    if isinstance(found, list):
        found = {str(k): shape for k, shape in enumerate(found)}
    if not isinstance(found, dict):
        raise ValueError(
            f"{path} must have a list of shapes, or an object of shapes by name, got {type(found).__name__}"
        )
    return {name: _array(name, shape) for name, shape in found.items()}


def _array(name: str, shape: Iterable[int], dtype: str = "float32") -> Any:
    good = isinstance(shape, list | tuple) and all(type(n) is int and n >= 0 for n in shape)
    if not good or math.prod(shape) >= 2**48:
        raise ValueError(
            f"the shape of {name!r} must be a list of integers >= 0, below 2^48 numbers, got {shape!r:.80}"
        )
    return np.broadcast_to(np.zeros((), dtype), tuple(shape))
