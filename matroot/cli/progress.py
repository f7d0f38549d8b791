"""A progress line for work that takes more than two seconds."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import AbstractContextManager
from importlib.util import find_spec
from types import TracebackType
from typing import Any

#: Seconds before the line appears, and between its changes.
DELAY, EVERY = 2.0, 0.5


class Progress(AbstractContextManager["Progress"]):
    """A progress line on stderr: tqdm's if installed, else plain; none where stderr is not a terminal.

    The line moves on its own clock: a step may take long.
    """

    def __init__(self, total: int, name: str) -> None:
        self.total, self.name, self.done = total, name, 0
        self._start = time.monotonic()
        self._ended = threading.Event()
        self._clock = threading.Thread(target=self._run, daemon=True)
        self._bar: Any = None
        self._shown = False

    def __enter__(self) -> Progress:
        if sys.stderr is not None and sys.stderr.isatty():  # None where it is closed
            self._clock.start()
        return self

    def step(self, count: int = 1) -> None:
        """Count `count` more steps as done."""
        self.done += count

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._clock.is_alive():
            self._clock.join()

    def _run(self) -> None:
        wait = DELAY
        while not self._ended.wait(wait):
            wait = EVERY
            self._show()
        if self._bar is not None:
            self._bar.close()
        elif self._shown:
            print("\r" + " " * 70 + "\r", end="", file=sys.stderr, flush=True)

    def _show(self) -> None:
        if self._bar is None and not self._shown and find_spec("tqdm") is not None:
            from tqdm import tqdm

            self._bar = tqdm(total=self.total, leave=False, file=sys.stderr)
            self._bar.start_t -= DELAY  # seconds count from the start of the work
        self._shown = True
        if self._bar is not None:
            self._bar.desc, self._bar.n = f"{self.name}: ", self.done
            self._bar.refresh()
            return
        line = f"{self.name}: {self.done} of {self.total}, {time.monotonic() - self._start:.0f} s"
        print(f"\r{line[:70]:<70}", end="", file=sys.stderr, flush=True)
