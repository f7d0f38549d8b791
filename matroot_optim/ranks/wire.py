"""The bytes that ranks send: a head of fixed size, then packed roots with their facts."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np

from matroot_optim.arrays import dtype_name, to_host
from matroot_optim.refresh.jobs import FACTS, RootAnswer, RootBatch

_HEAD = struct.Struct("<16s 8s 8s q q d d Q H 174s")
#: Bytes of a head, and of the facts of one root.
HEAD_BYTES = _HEAD.size
FACT_BYTES = sum(np.dtype(kind).itemsize for kind in FACTS.values())


class Head(NamedTuple):
    """The facts that a rank sends before its roots.

    Attributes
    ----------
    digest : bytes
        Of the orders, the options, the names and the owners of all roots of the exchange.
    counted : bytes
        Of the number of gradients that counted, of every parameter, with and without roots.
    rates : bytes
        Of the learning rate, the weight decay and the momentum of every parameter.
    due : int
        The step at which they are installed.
    roots : int
        Number of roots of all ranks.
    mass : float
        Sum of the absolute statistics of all ranks' roots.
    seconds : float
        Seconds this rank spent on its own roots.
    failed : int
        Bit k is set if this rank's part of batch k failed; the last bit stands for all further batches.
    reason : str
        The first failure in words.
    """

    digest: bytes
    counted: bytes
    rates: bytes
    due: int
    roots: int
    mass: float
    seconds: float
    failed: int = 0
    reason: str = ""

    def to_bytes(self) -> Any:
        """Return the head as bytes, a uint8 array."""
        text = self.reason.encode()[:174]
        return np.frombuffer(_HEAD.pack(*self[:-1], len(text), text), np.uint8)

    @classmethod
    def from_bytes(cls, given: Any) -> Head:
        """Read a head."""
        digest, counted, rates, due, roots, mass, seconds, failed, length, text = _HEAD.unpack(given.tobytes())
        reason = text[:length].decode(errors="replace")
        return cls(digest, counted, rates, due, roots, mass, seconds, failed, reason)

    def has_failed(self, k: int) -> bool:
        """Return True if this rank's part of batch k failed."""
        return bool(self.failed >> min(k, 63) & 1)


def head_of(batches: Sequence[RootBatch], owners: Sequence[Any], counts: bytes, rates: str) -> Head:
    """Return the head of batches and the owners of their roots, without what a rank adds."""
    told = [
        (b.matrix.shape, _kind(b), b.exponent, b.regularization, b.method, b.dtype, b.task, b.members) for b in batches
    ]
    digest = blake2b(repr((told, [rows.tolist() for rows in owners])).encode(), digest_size=16).digest()
    mass = sum(float(to_host(abs(b.matrix).sum())) for b in batches)
    counted, rated = (blake2b(x, digest_size=8).digest() for x in (counts, rates.encode()))
    return Head(digest, counted, rated, batches[0].due, sum(len(b.matrix) for b in batches), mass, 0.0)


def answer_bytes(batch: RootBatch, rows: int) -> int:
    """Return the number of bytes of so many roots of a batch, with their facts."""
    return rows * (batch.answer_shape[1] * np.dtype(_kind(batch)).itemsize + FACT_BYTES)


def to_bytes(answer: RootAnswer) -> list[Any]:
    """Return an answer as uint8 arrays."""
    arrays = [to_host(answer.root), *(answer.facts[name] for name in FACTS)]
    return [np.ascontiguousarray(x).reshape(-1).view(np.uint8) for x in arrays]


def from_bytes(given: Any, batch: RootBatch, rows: int) -> dict[str, Any]:
    """Read so many roots of a batch, as "root", and their facts."""
    parts: list[tuple[str, Any, tuple[int, ...]]] = [("root", _kind(batch), (rows, batch.answer_shape[1]))]
    parts += [(name, kind, (rows,)) for name, kind in FACTS.items()]
    found, start = {}, 0
    for name, kind, shape in parts:
        stop = start + int(np.prod(shape)) * np.dtype(kind).itemsize
        found[name] = np.frombuffer(given[start:stop].tobytes(), kind).reshape(shape)
        start = stop
    return found


def _kind(batch: RootBatch) -> str:
    return dtype_name(batch.matrix)
