"""History of the conditioning of named matrices, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from matroot._result import RootResult, on_host
from matroot._status import Status
from matroot.backends.keywords import is_int

#: Fields kept of every result, each the worst over its batch.
FIELDS = ("cond", "lambda_max", "residual", "bits_lost", "status", "n_iter")


class ConditionTracker:
    """Follow the conditioning of named matrices over a run.

    Parameters
    ----------
    max_records : int
        Records kept per name. Older records are dropped; their count and worst status are kept.

    Examples
    --------
    >>> import numpy as np
    >>> from matroot import ConditionTracker, solve
    >>> tracker = ConditionTracker()
    >>> for scale in (1.0, 1e-3):
    ...     tracker.record("layer0", solve(np.diag([1.0, scale]), 4))
    >>> tracker.to_dict()["layer0"]["cond"]
    [1.0, 1000.0]
    >>> print(tracker.summary().splitlines()[0])
    name    records  cond last  cond max  residual max  bits lost max  worst status
    """

    def __init__(self, max_records: int = 1000) -> None:
        if not is_int(max_records) or max_records < 1:
            raise ValueError(f"max_records must be an int >= 1, got {max_records!r}")
        self.max_records = max_records
        self._records: dict[str, deque[dict[str, float]]] = {}
        self._counts: dict[str, int] = {}
        self._worst: dict[str, int] = {}

    def record(self, name: str, result: RootResult[Any]) -> None:
        """Keep the worst values over the batch of `result` under `name`; NaN of a failed matrix only if all have it."""
        values = {field: on_host(getattr(result, field)) for field in FIELDS}
        if values["status"].size == 0:
            return
        row = {field: _worst(v) for field, v in values.items()}
        self._records.setdefault(name, deque(maxlen=self.max_records)).append(row)
        self._counts[name] = self._counts.get(name, 0) + 1
        self._worst[name] = max(self._worst.get(name, 0), int(row["status"]))

    def __len__(self) -> int:
        return len(self._records)

    def to_dict(self) -> dict[str, dict[str, list[float]]]:
        """Return ``{name: {field: values over time}}``, of plain floats."""
        return {name: {f: [row[f] for row in rows] for f in FIELDS} for name, rows in self._records.items()}

    def summary(self) -> str:
        """Return a table as text, one line per name."""
        head = ("name", "records", "cond last", "cond max", "residual max", "bits lost max", "worst status")
        rows = [head]
        for name, values in self.to_dict().items():
            rows.append(
                (
                    name,
                    str(self._counts[name]),
                    f"{values['cond'][-1]:.4g}",
                    f"{_worst(values['cond']):.4g}",
                    f"{_worst(values['residual']):.2g}",
                    f"{_worst(values['bits_lost']):.2g}",
                    Status(self._worst[name]).name,
                )
            )
        return table(rows)

    def plot(self, ax: Any = None) -> Any:
        """Plot the condition number of each name over its records and return the axes; needs matplotlib."""
        if ax is None:
            import matplotlib.pyplot as plt

            _, ax = plt.subplots()
        for name, values in self.to_dict().items():
            first = self._counts[name] - len(values["cond"])
            ax.plot(np.arange(first, self._counts[name]), values["cond"], label=name)
        ax.set(xlabel="record", ylabel="condition number", yscale="log")
        if self._records:
            ax.legend()
        return ax


def _worst(values: Any) -> float:
    """Return the largest number; NaN only where there is no other."""
    return float(np.fmax.reduce(np.ravel(values)))


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Align the columns: the first and the last to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    last = len(widths) - 1
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i in (0, last) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
