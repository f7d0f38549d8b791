"""Concurrent work on one device, each piece on a separate stream."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from matroot.backends.arrays import library_of

#: Number of streams that the pieces of one caller use in turn; cupy's pool has separate memory for each stream.
STREAMS = 4


def side_by_side(pieces: Sequence[Callable[[], Any]], like: Any) -> list[Any]:
    """Call every piece and return the results; on the GPU of `like` the pieces run on separate streams.

    All pieces begin after the earlier work of the caller's current stream, and later work of this stream begins after
    all pieces. On the host, and for a single piece, the pieces run in sequence.
    """
    library = library_of(like)
    on_a_card = library == "cupy" or (library == "torch" and like.device.type == "cuda")
    if len(pieces) < 2 or not on_a_card:
        return [piece() for piece in pieces]
    fork = _cupy_fork if library == "cupy" else _torch_fork
    with fork(like) as aside:
        return [aside(k % STREAMS, piece) for k, piece in enumerate(pieces)]


@contextmanager
def _cupy_fork(like: Any) -> Iterator[Callable[[int, Callable[[], Any]], Any]]:
    cupy = sys.modules["cupy"]
    with like.device:
        here, ends = cupy.cuda.get_current_stream(), []
        begin = here.record()

        def aside(k: int, piece: Callable[[], Any]) -> Any:
            with _cupy_stream(like.device.id, here.ptr, k) as stream:
                stream.wait_event(begin)
                try:
                    return piece()
                finally:
                    ends.append(stream.record())

        try:
            yield aside
        finally:
            for end in ends:
                here.wait_event(end)


@contextmanager
def _torch_fork(like: Any) -> Iterator[Callable[[int, Callable[[], Any]], Any]]:
    torch = sys.modules["torch"]
    here, ends = torch.cuda.current_stream(like.device), []
    begin = here.record_event()

    def aside(k: int, piece: Callable[[], Any]) -> Any:
        stream = _torch_stream(like.device, k)
        with torch.cuda.stream(stream):
            stream.wait_event(begin)
            try:
                return piece()
            finally:
                ends.append(stream.record_event())

    try:
        yield aside
    finally:
        for end in ends:
            here.wait_event(end)


@cache
def _cupy_stream(device: int, caller: int, k: int) -> Any:
    return sys.modules["cupy"].cuda.Stream(non_blocking=True)


@cache
def _torch_stream(device: Any, k: int) -> Any:
    return sys.modules["torch"].cuda.Stream(device)
