"""The plans of a network for several numbers of ranks, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

#: A makespan above this, without a lag, has advice.
LONG = 1.5

#: Title, and the text of one plan; None in the place of the text: a heading.
ROWS: tuple[tuple[str, Callable[[Any], str] | None], ...] = (
    ("RankEngine: every rank has the whole state", None),
    ("  roots of a rank in one interval", lambda p: _range(*p.roots_per_rank)),
    ("  time for all roots, of equal shares", lambda p: f"{p.makespan:.2f}"),
    ("  the least that whole roots allow", lambda p: f"{p.bound:.2f}"),
    ("  ranks with a root, in a step with roots", lambda p: f"{100 * p.busy:.0f} %"),
    ("  own roots of the busiest rank, per step", lambda p: size_of(p.sent_bytes)),
    ("  roots that each rank receives, per step", lambda p: size_of(p.received_bytes)),
    ("  state on each rank", lambda p: size_of(p.state_bytes)),
    ("owned blocks: fully_shard, or shard=True", None),
    ("  time for all roots, of equal shares", lambda p: f"{p.owned_makespan:.2f}"),
    ("  sent by the busiest rank, per step", lambda p: size_of(p.owned_sent_bytes)),
    ("  state on the fullest rank", lambda p: size_of(p.owned_state_bytes)),
)
#: Of owned blocks too, where there are tables.
OF_TABLES: tuple[tuple[str, Callable[[Any], str] | None], ...] = (
    ("  statistics of tables, summed, per step", lambda p: size_of(p.summed_bytes)),
    ("  roots of tables received, per step", lambda p: size_of(p.table_bytes)),
)


def table(plans: Sequence[Any]) -> str:
    """Return what `RankPlan` objects of one network say, one column for each; the parameters are said once."""
    first = plans[0]
    times_adam = first.state_bytes / max(first.adam_bytes, 1)  # of empty parameters there is no state
    lines = [
        f"{count_of(first.parameters)} numbers, {count_of(first.directed)} of them in parameters with roots",
        f"{first.roots} roots of orders up to {first.largest}, each once in {first.interval} steps "
        f"({first.schedule}, lag {first.lag})"
        if first.roots
        else "no roots, so nothing to share",
        f"state in one process {size_of(first.state_bytes)}, {times_adam:.1f} times Adam's",
    ]
    if not first.roots:
        return "\n".join(lines)
    lines.append("")
    rows = (*ROWS, *OF_TABLES) if first.tables else ROWS
    columns = [[str(plan.ranks), *("" if text is None else text(plan) for _, text in rows)] for plan in plans]
    wide = [max(map(len, column)) for column in columns]
    for title, *cells in zip(("ranks", *(title for title, _ in rows)), *columns, strict=True):
        lines.append(f"{title:43}" + "".join(f"  {cell:>{n}}" for cell, n in zip(cells, wide, strict=True)))
    lines = [line.rstrip() for line in lines]
    late = [plan for plan in plans if not plan.lag and plan.makespan > LONG]
    if late:
        ways = "a lag" if first.schedule == "interval" else "a lag, or --schedule interval"
        lines += [
            "",
            f"From {late[0].ranks} ranks on, ranks wait for few roots: use {ways}, or a smaller --block-size.",
        ]
    return "\n".join(lines)


def size_of(size: float) -> str:
    """Return a number of bytes in words."""
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"


def count_of(count: int) -> str:
    """Return a number of parameters in words."""
    return f"{count / 1e9:.4g} billion" if count >= 1e9 else f"{count / 1e6:.4g} million"


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"
