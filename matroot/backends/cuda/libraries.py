"""Functions of CUDA's libraries that cupy does not call, by ctypes, from the library that cupy has loaded."""

from __future__ import annotations

from collections.abc import Callable
from ctypes import CDLL, c_int
from typing import Any


def caller(extension: Any, signatures: dict[str, tuple[Any, ...]]) -> Callable[..., None]:
    """Return ``call(name, *arguments)`` for C functions that return a status; it raises unless the status is 0.

    Symbols are found through cupy's binding `extension`, such as ``cupy.cuda.cublas``, and the libraries linked to it;
    AttributeError if one is missing. `signatures` has the types of the arguments by name.
    """
    library = CDLL(extension.__file__)
    functions = {name: getattr(library, name) for name in signatures}
    for name, types in signatures.items():
        functions[name].argtypes, functions[name].restype = types, c_int

    def call(name: str, *arguments: Any) -> None:
        status = functions[name](*arguments)
        if status:
            raise RuntimeError(f"{name} failed with status {status}")

    return call
