"""The tuned numbers behind "auto": those measured by us, or on the user's machine by ``matroot tune``."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from matroot.backends.cpu.cpu import usable_cores
from matroot.backends.loading import deferred

T = TypeVar("T")

#: Written into a profile; one of another number is not read.
FORMAT = 1


@dataclass(frozen=True)
class Limits:
    """Sizes at which one method overtakes another on the CPU.

    The defaults were measured on an AMD EPYC of family 26 (Zen 5, AVX-512), 2 cores, by ``matroot tune``.
    """

    #: largest n at which `Tridiagonal` beats `Eigen` on one matrix
    tridiagonal_alone: int = 4096
    #: the same in a batch of four and more
    tridiagonal_batch: int = 4096
    #: smallest n at which a Cholesky factorization gives the inverse (p = 1) faster than either
    cholesky_from: int = 512


def path() -> Path:
    """Return the path of this user's profile; ``MATROOT_PROFILE`` names another file.

    FileNotFoundError if the user has no home.
    """
    if os.environ.get("MATROOT_PROFILE"):
        return Path(os.environ["MATROOT_PROFILE"])
    try:
        if sys.platform == "win32":
            base = Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
        else:
            base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    except RuntimeError as error:
        raise FileNotFoundError(f"no place for a profile ({error}): let MATROOT_PROFILE name a file") from None
    return base / "matroot" / "profile.json"


def present(where: Callable[[], Path] | None = None) -> bool:
    """Return whether the user has a profile; not where there is no home, or one that may not be looked into."""
    try:
        return (where or path)().exists()
    except OSError:
        return False


def machine() -> dict[str, Any]:
    """Describe the machine a profile is good for: another count of cores or another library makes it stale."""
    return {"cores": usable_cores(), "numpy": np.__version__, "scipy": deferred("scipy").__version__}


def save(tuned: Limits, where: Path) -> None:
    """Write a profile; the old one stays until the new one is whole."""
    write(where, {"machine": machine(), "limits": asdict(tuned)})
    limits.cache_clear()


def write(where: Path, contents: dict[str, Any]) -> None:
    """Write the JSON of a profile."""
    where.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"format": FORMAT, **contents}, indent=2)
    with deferred("matroot.backends.replacing").replacing(where) as stream:
        stream.write(f"{text}\n".encode())


def contents(where: Path) -> dict[str, Any]:
    """Read the JSON of a profile; ValueError if the file is damaged, or of another format."""
    if where.exists() and not where.is_file():  # reading a pipe would wait for a writer
        raise ValueError(f"the profile {where} is no file")
    try:
        data = json.loads(where.read_text(encoding="utf-8"))
        if data["format"] == FORMAT:
            return dict(data)
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise damaged(where)


def damaged(where: Path) -> ValueError:
    """Return the error of a file that is no profile."""
    return ValueError(f"the profile {where} is damaged")


def numbers(kind: type[T], found: Any, where: Path) -> T:
    """Return limits of a kind, a dataclass of integers from 0 on, from what a profile holds of them."""
    try:
        limits = {field.name: found[field.name] for field in fields(kind)}  # type: ignore[arg-type]
    except (KeyError, TypeError):
        raise damaged(where) from None
    if not all(type(v) is int and v >= 0 for v in limits.values()):
        raise damaged(where)
    return kind(**limits)


def read(where: Path) -> Limits:
    """Read the limits of a profile; ValueError if it is damaged, or stale, which the message explains."""
    data = contents(where)
    limits, found = numbers(Limits, data.get("limits"), where), data.get("machine")
    if not isinstance(found, dict):
        raise damaged(where)
    if found != machine():
        changed = ", ".join(f"{k} {found.get(k)} then, {v} now" for k, v in machine().items() if found.get(k) != v)
        raise ValueError(f"the profile {where} is stale ({changed})")
    return limits


@cache
def limits() -> Limits:
    """Return the user's profile if there is a good one, else the defaults; warn of a bad one, once."""
    return in_force(lambda: read(path()) if present() else Limits(), Limits())


def in_force(load: Callable[[], T], built_in: T) -> T:
    """Return the limits that are read, or the built-in ones with a warning."""
    try:
        return load()
    except (ValueError, OSError) as error:
        warnings.warn(f"{error}; using the built-in one: run `matroot tune`", UserWarning, stacklevel=3)
        return built_in
