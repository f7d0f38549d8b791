"""The tuned numbers of a card, measured by ``matroot tune`` and stored in the folder of the profile."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from matroot.backends import profile


@dataclass(frozen=True)
class GPULimits:
    """Sizes at which the GPU path takes each shortcut.

    The defaults leave the shortcuts off that have not been tested on the card. `matroot tune` compares every shortcut
    with the default, in result and time, and turns on the shortcuts that are right and faster.
    """

    #: largest n that small.cu solves, one block a matrix
    fused: int = 0
    #: largest n for which "auto" takes `Eigen`, by batched Jacobi
    eigen: int = 0
    #: up to this n `Eigen` gives a whole stack to batched Jacobi (syevjBatched); above it, one matrix at a time to
    #: divide and conquer
    jacobi: int = 32
    #: above `jacobi` and up to this n a stack of several goes to cuSOLVER's XsyevBatched, which needs CUDA 12.6
    batched: int = 0
    #: 1 if stack.cu does the work between products, else 0
    kernels: int = 0
    #: largest stack, in bytes, whose schedule is captured as a CUDA graph and replayed
    graphs: int = 0
    #: smallest n whose products are computed by halves if float32 input is computed in float64; 0: none
    halves: int = 0


def card(cupy: Any, device: int) -> str:
    """Return the name under which limits are stored; another card or version of cupy has to be measured again."""
    found = cupy.cuda.runtime.getDeviceProperties(device)
    return f"{found['name'].decode()}, sm_{found['major']}{found['minor']}, cupy {cupy.__version__}"


def described(cupy: Any, device: int) -> str:
    """Describe a card in one line: its name, its rates, and its limits."""
    name = card(cupy, device)
    ratio = cupy.cuda.Device(device).attributes.get("SingleToDoublePrecisionPerfRatio", 1)
    numbers = ", ".join(f"{key} {value}" for key, value in asdict(limits(name)).items())
    return f"{name}, float32 {ratio} times as fast as float64 ({numbers})"


def path() -> Path:
    """Return the path of the file with the limits of this user's cards."""
    where = profile.path()
    return where.with_name(f"{where.stem}-gpu.json")


def save(name: str, limits: GPULimits, where: Path) -> None:
    """Write the limits of one card, and keep the limits of the others."""
    known = _cards(where) if where.exists() else {}
    profile.write(where, {"cards": {**known, name: asdict(limits)}})


def read(name: str, where: Path) -> GPULimits:
    """Read the limits of a card, the built-in ones if the file has none for it; ValueError if the file is damaged."""
    found = _cards(where).get(name)
    return GPULimits() if found is None else profile.numbers(GPULimits, found, where)


def _cards(where: Path) -> dict[str, Any]:
    cards = profile.contents(where).get("cards")
    if not isinstance(cards, dict):
        raise profile.damaged(where)
    return cards


@cache
def limits(name: str) -> GPULimits:
    """Return the limits in force for a card, with one warning if the file is bad."""
    return profile.in_force(lambda: read(name, path()) if profile.present(path) else GPULimits(), GPULimits())
