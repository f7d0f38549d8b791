"""The functions that run in a worker."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import wait
from typing import Any

from matroot_optim.refresh.jobs import RootAnswer, RootBatch, compute
from matroot_optim.refresh.shared import Address

#: Seconds between two checks of the parent.
POLL = 0.5


def compute_sent(batch: RootBatch, memory: Address | None, home: int) -> RootAnswer:
    """Compute the roots of a batch that the process `home` has sent; a worker process uses one thread.

    The memory, if any, holds the matrices of the batch, and the roots afterwards.
    """
    if os.getpid() != home:
        os.environ["MATROOT_NUM_THREADS"] = "1"
    if memory is None:
        return compute(batch)
    with memory.open() as file:
        answer = compute_sent(replace(batch, matrix=memory.read(file)), None, home)
        memory.write(file, answer.root)
        return replace(answer, root=None)


def compute_in_pool(batch: RootBatch, memory: Address | None, home: int) -> RootAnswer:
    """Compute the roots of a batch in a process that ends with `home`, the process that made it."""
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid == home:
        end_with_parent()
    return compute_sent(batch, memory, home)


def begin(initializer: Callable[..., object] | None, arguments: tuple[Any, ...]) -> None:
    """Initialize a worker of a pool that an engine made, so that the worker ends with its parent."""
    end_with_parent()
    if initializer is not None:
        initializer(*arguments)


def end_with_parent() -> None:
    """End this process as soon as the process that made it has ended.

    A worker of `concurrent.futures` or loky does not notice this, because it holds both ends of the pipe it reads from.
    """
    if multiprocessing.parent_process() is not None and _Watch.process != os.getpid():
        _Watch.process = os.getpid()
        threading.Thread(target=_watch, args=(os.getppid(),), name="matroot parent", daemon=True).start()


class _Watch:
    """The process that runs the watching thread; a fork copies this value but not the thread."""

    process = 0


def _watch(first: int) -> None:
    parent: Any = multiprocessing.parent_process()
    # loky has no sentinel on POSIX, and its workers are children of the trainer itself. A forked worker's sentinel
    # may be held open by its siblings. A worker of a fork server has another parent than the trainer.
    sentinel = getattr(parent, "_sentinel", None)
    expected = first if sentinel is not None else parent.pid
    while os.getppid() == expected and not wait([] if sentinel is None else [sentinel], POLL):
        pass
    os._exit(1)
