"""Anonymous memory shared with workers on the same machine; no name remains after the processes end."""

from __future__ import annotations

import os
import uuid
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np

#: Linux with /proc. Elsewhere arrays go through the pipe of the executor.
AVAILABLE = hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd")


class UnreachableError(OSError):
    """A worker cannot open the memory: the memory is freed, or the worker has another machine or another user."""


@dataclass(frozen=True)
class Address:
    """The address of shared memory for a worker: a descriptor of the process that made the memory.

    Descriptors are reused, so `name` is unique and is compared.
    """

    path: str
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    answer: tuple[int, ...]  # the shape of the array that replaces the first

    def open(self) -> Any:
        """Open the memory as a file."""
        try:
            file = open(self.path, "r+b", buffering=0)
        except OSError as error:
            raise UnreachableError(f"shared memory is not to be reached: {error}") from error
        if os.readlink(f"/proc/self/fd/{file.fileno()}") != self.name:
            file.close()
            raise UnreachableError("shared memory is gone")
        return file

    def read(self, file: Any, *, answer: bool = False) -> Any:
        """Copy the array, or the answer, out of the memory."""
        shape = self.answer if answer else self.shape
        file.seek(0)
        return np.fromfile(file, self.dtype, count=int(np.prod(shape))).reshape(shape)

    def write(self, file: Any, values: Any) -> None:
        """Replace the array by `values`, the answer."""
        if values.shape != self.answer or values.dtype != self.dtype:
            raise ValueError(f"values must be {self.dtype} {self.answer}, got {values.dtype} {values.shape}")
        file.seek(0)
        values.tofile(file)


class SharedArray:
    """A copy of an array that one worker reads and overwrites, by one that may have another shape, `answer`.

    The copy is an anonymous file in memory, which the kernel frees when the last process that has it open ends. OSError
    if no memory or no descriptor is left.
    """

    def __init__(self, values: Any, answer: tuple[int, ...] | None = None) -> None:
        file = open(os.memfd_create(f"matroot-{uuid.uuid4().hex}"), "r+b", buffering=0)
        self.close = weakref.finalize(self, file.close)
        path = f"/proc/{os.getpid()}/fd/{file.fileno()}"
        name = os.readlink(path)
        self.address = Address(path, name, values.shape, values.dtype, values.shape if answer is None else answer)
        values.tofile(file)
        self._file = file

    def read(self) -> Any:
        """Copy the answer out."""
        return self.address.read(self._file, answer=True)
