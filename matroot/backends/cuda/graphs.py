"""A fixed sequence of launches as one CUDA graph, captured at the first call and replayed at later calls."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any, NamedTuple

Array = Any

#: Maximum number of kept graphs, each with its five stacks. Once it is reached, no more graphs are captured. None is
#: dropped either: alternating shapes would be captured again at every call.
KEPT = 32
#: Share of the free memory that a new graph may keep.
SHARE = 1 / 16


class Captured(NamedTuple):
    """A graph, its arrays, and those of the arrays that hold its results."""

    graph: Any
    stacks: tuple[Array, ...]
    results: tuple[Array, ...]


_known: dict[Any, Captured] = {}
_lock = Lock()


def replay(backend: Any, key: Any, work: Callable[..., Any], given: tuple[Array, ...]) -> tuple[Array, ...] | None:
    """Replay ``work(backend, *given, T, P, X)`` and return copies of its results; None if no more graphs can be kept.

    See `matroot.backends.cuda.gpu.GPU.replayed`.

    A graph belongs to a stream, so that two streams never share its arrays; a lock serializes threads.
    """
    xp = backend.xp
    stream = xp.cuda.get_current_stream()
    key = (backend, stream.ptr, key, given[0].shape, given[0].dtype.name)
    with _lock:
        found = _known.get(key)
        if found is None:
            if len(_known) >= KEPT or 5 * given[0].nbytes > SHARE * backend.free_bytes():
                return None
            found = _known[key] = capture(backend, work, given)
        for stack, values in zip(found.stacks, given, strict=False):
            xp.copyto(stack, values)
        found.graph.launch(stream)
        return tuple(result.copy() for result in found.results)


def capture(backend: Any, work: Callable[..., Any], given: tuple[Array, ...]) -> Captured:
    """Capture `work` as a graph with its own arrays."""
    xp, recorder = backend.xp, backend.recorder
    recorder.limits, stream = backend.limits, xp.cuda.get_current_stream()
    stacks = (*(g.copy() for g in given), *(xp.empty_like(given[0]) for _ in range(3)))
    recorder.recording.use(stream, stream)
    work(recorder, *stacks)  # load every kernel first: loading cannot be captured
    side = xp.cuda.Stream(non_blocking=True)
    with side:
        side.begin_capture()
        try:
            recorder.recording.use(side, stream)
            results = work(recorder, *stacks)
        finally:
            graph = side.end_capture()
    return Captured(graph, stacks, tuple(results))


def forget() -> None:
    """Release every graph and its memory."""
    with _lock:
        _known.clear()
