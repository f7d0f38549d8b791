"""Measure every promise and print the tables: ``python asv_benchmarks/report.py``.

The numbers are those of the asv benchmarks, measured in one process on two cores.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ["MATROOT_GRID"] = "1"  # the tables have every cell

from benchmarks import common  # isort: skip  # pins the process first

from benchmarks import bench_auto as fast
from benchmarks import bench_costs as costs
from benchmarks import bench_general as schur
from benchmarks import bench_rules as rules_of
from benchmarks import peers
from threadpoolctl import threadpool_limits

import matroot
from matroot.cli.info import facts


class Table(NamedTuple):
    """Something to print."""

    title: str
    note: str
    header: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def cells(benchmark: Any, track: str, *levels: Any) -> Iterator[tuple[Any, ...]]:
    """Run one track_ benchmark over its parameters, or those given: (*parameters, value)."""
    params = benchmark.params if isinstance(benchmark.params, tuple) else (benchmark.params,)
    for values in itertools.product(*(levels or params)):
        case = benchmark()
        case.setup(*values)
        value = getattr(case, track)(*values)
        print(f"  {benchmark.__name__}.{track}{values}: {value:.3g}", file=sys.stderr)
        yield (*values, value)


def counts() -> Iterator[Table]:
    """Iterations and products of coupled Newton."""
    params = costs.Counts.params
    found = {
        track: {(p, c): v for p, c, v in cells(costs.Counts, track)} for track in ("track_iterations", "track_products")
    }
    rows = [
        (p, *(f"{found['track_iterations'][p, c]} | {found['track_products'][p, c]}" for c in params[1]))
        for p in params[0]
    ]
    yield Table(
        "Coupled Newton: iterations | products",
        "float64, n = 128, geometric spectrum, full accuracy.",
        ("p", *(f"cond {c:.0e}" for c in params[1])),
        rows,
    )


def overheads() -> Iterator[Table]:
    """Measure the cost of a solve relative to the bare factorization."""
    rows = [(n, dtype, f"{x:.2f}") for n, dtype, x in cells(costs.EigenOverhead, "track_overhead")]
    yield Table(
        "A solve by eigen, in units of numpy.linalg.eigh and recombination",
        "One matrix, certificate and checks included. float32 input is computed in float64 by both.",
        ("n", "dtype", "times"),
        rows,
    )
    shares = [(n, f"{100 * x:.1f} %") for n, x in cells(costs.Certificate, "track_share")]
    yield Table("The certificate's share of a solve by eigen", "float64.", ("n", "share"), shares)
    work = [(m, n, f"{x:.1f}") for m, n, x in cells(costs.WorkMemory, "track_work")]
    yield Table(
        "Work memory beyond the output, in n^2 numbers of float64",
        "One matrix; numpy's allocations as tracemalloc sees them.",
        ("method", "n", "n^2 numbers"),
        work,
    )
    seconds = costs.Import().track_seconds()
    yield Table("import matroot", "Fresh process, median of 7.", ("seconds",), [(f"{seconds:.3f}",)])


def general() -> Iterator[Table]:
    """schur_newton beside SciPy."""
    tracks = ("track_speedup", "track_error_ratio", "track_outside_schur")
    found = [list(cells(schur.General, track)) for track in tracks]
    rows = [(n, p, f"{a:.1f}", f"{b:.2f}", f"{c:.2f}") for (n, p, a), (_, _, b), (_, _, c) in zip(*found, strict=True)]
    yield Table(
        "schur_newton beside scipy.linalg.fractional_matrix_power, A^(1/p)",
        "Real general matrices, float64, cond 1e2. Error: ours over SciPy's. "
        "Outside Schur: seconds that are not the Schur form's, over those that are.",
        ("n", "p", "times faster", "error ratio", "outside Schur"),
        rows,
    )


def batches() -> Iterator[Table]:
    """One call on a batch beside a loop."""
    sizes = costs.Batch.params[1]
    found = {(m, n): x for m, n, x in cells(costs.Batch, "track_speedup")}
    rows = [(m, *(f"{found[m, n]:.1f}" for n in sizes)) for m in costs.Batch.params[0]]
    yield Table(
        "A batch in one call: times faster than a Python loop over solve",
        "float64, cond 1e4, p = 4.",
        ("method", *(f"n = {n}" for n in sizes)),
        rows,
    )


def rules() -> Iterator[Table]:
    """Regularization rules beside a plain solve and beside numpy."""
    tracks = ("track_plain", "track_numpy")
    found = [list(cells(rules_of.Rules, track)) for track in tracks]
    rows = [
        (name, f"{100 * small:.0f} %", f"{a:.2f}", f"{b:.2f}")
        for (name, small, a), (_, _, b) in zip(*found, strict=True)
    ]
    yield Table(
        "A solve with a rule, in units of a plain solve and of numpy.linalg.eigh with the same rule",
        "4,920 matrices of 32 x 32, float64, p = 2, one thread.",
        ("rule", "of each spectrum below the cut", "of a plain solve", "of numpy"),
        rows,
    )


WANTED = {  # N and T, float32 | float64
    4: "6 / 5 | 6 / 5", 8: "6 / 5 | 6 / 5", 16: "12 / 8 | 9 / 6", 32: "12 / 8 | 9 / 6", 64: "10 / 5 | 6 / 4",
    128: "5 / 2 | 2.5 / 1.5", 256: "2.5 / 1.2 | 1.3 / 1.0", 512: "1.6 / 1.0 | 1.1 / 1.0",
    1024: "1.6 / 1.0 | 1.1 / 1.0",
}  # fmt: skip


def fast_cpu() -> Iterator[Table]:
    """ "auto" beside both eigendecompositions."""
    for cond in (1e4, 1e6):
        rows = []
        for n in fast.SIZES:
            row: list[Any] = [n]
            for dtype in fast.DTYPES:
                A, exact, ours = fast.cell(n, dtype, cond)
                peer = peers.numpy_eigh(A, 4), peers.torch_eigh(A, 4)
                mine, N, T = common.in_turn(ours, *peer, rounds=5)
                result = ours()
                row += [f"{N / mine:.1f} / {T / mine:.1f}", f"{1e6 * mine / len(A):.4g}"]
                row += [result.method.name, f"{common.forward_error(result.x, exact):.0e}"]
                print(f"  n={n} {dtype} cond={cond:.0e}: {row[-4:]}", file=sys.stderr)
            rows.append((*row, WANTED[n]))
        columns = ("N / T", "us a matrix", "method", "error")
        yield Table(
            f"auto beside numpy.linalg.eigh (N) and torch.linalg.eigh (T): cond {cond:.0e}",
            "Both with recombination. p = 4, geometric spectrum, B n^2 = 1e6; float32 with rtol = 1e-3, "
            "float64 in full; error: relative forward error, worst of the batch. Wanted (float32 | float64): "
            "at cond 1e4.",
            ("n", *(f"{c}, {dtype}" for dtype in fast.DTYPES for c in columns), "wanted"),
            rows,
        )


def beside_numpy(A: Any, p: int, dtype: str, threads: int) -> tuple[float, float]:
    """Seconds of a solve, and those of numpy's decomposition over them, both on so many threads."""
    kept = {name: os.environ.get(name) for name in ("MATROOT_NUM_THREADS", "MATROOT_BLAS_THREADS")}
    os.environ.update(dict.fromkeys(kept, str(threads)))
    try:
        with threadpool_limits(threads, user_api="blas"):
            ours = partial(matroot.solve, A, p, **fast.accuracy(dtype))
            mine, N = common.in_turn(ours, peers.numpy_eigh(A, p), rounds=7)
    finally:
        for name, value in kept.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    print(f"  {A.shape} {A.dtype} p={p} threads={threads}: {1e6 * mine:.0f} us, {N / mine:.2f}", file=sys.stderr)
    return mine, N / mine


def one() -> Iterator[Table]:
    """One matrix beside numpy."""
    for dtype in reversed(fast.DTYPES):
        rows = []
        for n in (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048):
            A = common.stack(n, 1, 1e4, dtype)[0][0]
            rows.append((n, *columns(A, dtype, 1), *(columns(A, dtype, 2) if n >= 256 else ("", ""))))
        yield beside("One matrix", dtype, "both on one and on two threads", rows)


def small() -> Iterator[Table]:
    """Batches beside numpy."""
    for dtype in reversed(fast.DTYPES):
        rows = []
        for n in (4, 8, 16, 32, 64, 128, 256):
            A = common.stack(n, max(1, fast.NUMBERS // n**2), 1e4, dtype)[0]
            rows.append((n, *columns(A, dtype, 1), *columns(A, dtype, 2)))
        yield beside("Batches, B n^2 = 1e6", dtype, "on one and on two threads; numpy uses one for a batch", rows)


def columns(A: Any, dtype: str, threads: int) -> tuple[str, str]:
    """Microseconds a matrix for p = 2, and numpy's time over ours for p = 2 | 4."""
    (mine, two), (_, four) = (beside_numpy(A, p, dtype, threads) for p in (2, 4))
    us = 1e6 * mine / (len(A) if A.ndim > 2 else 1)
    return f"{us:,.0f}" if us >= 100 else f"{us:.2g}", f"{two:.1f} | {four:.1f}"


def beside(what: str, dtype: str, threads: str, rows: list[tuple[Any, ...]]) -> Table:
    """The table of such rows."""
    digits = ", rtol = 1e-3" if dtype == "float32" else ""
    heads = [f"{head}, {t}" for t in ("one thread", "two threads") for head in ("us a matrix", "numpy / ours")]
    note = f"p = 2 | 4 (microseconds: p = 2), cond 1e4; {threads}."
    return Table(f"{what}, {dtype}{digits}", note, ("n", *heads), rows)


def optax() -> Iterator[Table]:
    """ "auto" beside optax."""
    rows = [(n, f"{x:.0f}") for n, x in cells(fast.Optax, "track_speedup")]
    yield Table(
        "auto beside optax.matrix_inverse_pth_root (jitted, CPU, float32)",
        "p = 4, cond 1e4, a stack of B n^2 = 262144; ours with rtol = 1e-3.",
        ("n", "times faster"),
        rows,
    )


def auto() -> Iterator[Table]:
    """ "auto" beside the fastest method, on the whole grid; the worst twelve cells and a summary."""
    found = []
    for values in itertools.product(*fast.AutoChoice.params):
        case = fast.AutoChoice()
        try:
            case.setup(*values)
        except NotImplementedError:
            continue
        ratio, best = fast.regret(case.A, values[2], values[3])
        if ratio > 1.05:  # three rounds are few on a busy machine
            ratio, best = fast.regret(case.A, values[2], values[3], rounds=15)
        print(f"  auto {values}: {ratio:.2f} of {best}", file=sys.stderr)
        found.append((ratio, *values, best))
    found.sort(reverse=True, key=lambda row: row[0])
    within = sum(row[0] <= 1.1 for row in found)
    yield Table(
        "auto beside the fastest method: the twelve worst cells",
        f"{within} of {len(found)} cells are within 10 %.",
        ("n", "batch", "p", "dtype", "cond", "fastest", "seconds of auto / of the fastest"),
        [(n, b, p, d, f"{c:.0e}", best, f"{r:.2f}") for r, n, b, p, d, c, best in found[:12]],
    )


def scaling(path: Path | None) -> Iterator[Table]:
    """Seconds against n and against the batch."""
    sizes, batch_sizes = (64, 128, 256, 512, 1024), (1, 4, 16, 64, 256, 1024)
    over_n, over_batch = {}, {}
    for dtype in fast.DTYPES:
        calls = [fast.cell(n, dtype, 1e4, numbers=n * n)[2] for n in sizes]
        over_n[dtype] = common.in_turn(*calls, rounds=5)
        calls = [fast.cell(64, dtype, 1e4, numbers=b * 64 * 64)[2] for b in batch_sizes]
        over_batch[dtype] = common.in_turn(*calls, rounds=5)
    if path is not None:
        draw(path, (sizes, over_n), (batch_sizes, over_batch))
    for title, name, xs, seconds in (
        ("Seconds of one solve by auto, cond 1e4, p = 4", "n", sizes, over_n),
        ("Seconds of a batch by auto, n = 64, cond 1e4, p = 4", "batch", batch_sizes, over_batch),
    ):
        rows = [(x, *(f"{seconds[d][i]:.2e}" for d in fast.DTYPES)) for i, x in enumerate(xs)]
        yield Table(title, "float32 with rtol = 1e-3, float64 in full.", (name, *fast.DTYPES), rows)


def draw(path: Path, *panels: tuple[tuple[int, ...], dict[str, list[float]]]) -> None:
    """Both growths on one picture, beside lines of slope 3 and 1."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, (xs, seconds), slope, name in zip(axes, panels, (3, 1), ("n", "matrices of 64 x 64"), strict=True):
        for (dtype, values), mark in zip(seconds.items(), "os", strict=True):
            axis.loglog(xs, values, f"{mark}-", label=dtype)
        last = seconds["float64"][-1]
        axis.loglog(xs, [last * (x / xs[-1]) ** slope for x in xs], "k:", lw=1, label=f"slope {slope}")
        axis.set(xlabel=name, ylabel="seconds")
        axis.legend(frameon=False)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def markdown(table: Table) -> str:
    """A table in Markdown."""
    lines = [f"### {table.title}", "", table.note, ""]
    lines += [" | ".join(row).join(("| ", " |")) for row in _cells(table, "\\|")]
    lines.insert(5, "|" + "---|" * len(table.header))
    return "\n".join(lines) + "\n"


def rst(table: Table) -> str:
    """A table in reStructuredText."""
    lines = [
        table.title,
        "-" * len(table.title),
        "",
        table.note,
        "",
        ".. csv-table::",
        "   :header-rows: 1",
        "",
    ]
    lines += ["   " + ", ".join(f'"{cell}"' for cell in row) for row in _cells(table, "|")]
    return "\n".join(lines) + "\n"


def _cells(table: Table, bar: str) -> list[list[str]]:
    return [[str(cell).replace("|", bar) for cell in row] for row in (table.header, *table.rows)]


def machine() -> str:
    """Describe the machine, the versions and the date."""
    known = facts()
    libraries = ", ".join(f"{name} {known[name]}" for name in ("numpy", "scipy", "numba", "torch", "jax", "optax"))
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > 0.5:
        print(f"the machine is busy (load {load:.1f}): threads that wait for each other mislead", file=sys.stderr)
    return (
        f"Measured on {date.today():%d %B %Y}: {known['processor'].split(',')[0]}, {common.CORES} cores, "
        f"load {load:.1f} before, "
        f"Python {platform.python_version()}, matroot {matroot.__version__}, {libraries}."
    )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    sections: dict[str, Callable[[], Iterator[Table]]] = {
        "counts": counts,
        "overheads": overheads,
        "general": general,
        "batches": batches,
        "rules": rules,
        "one": one,
        "small": small,
        "fast": fast_cpu,
        "optax": optax,
        "auto": auto,
        "scaling": lambda: scaling(options.plot),
    }
    parser.add_argument("--only", nargs="+", choices=sections, default=list(sections), metavar="SECTION")
    parser.add_argument("--rst", type=Path, help="also write the tables as reStructuredText")
    parser.add_argument("--json", type=Path, help="also write them as JSON")
    parser.add_argument("--plot", type=Path, help="draw time against n and against the batch (PNG)")
    options = parser.parse_args()

    start = time.perf_counter()
    where = machine()
    print(where, end="\n\n")
    tables = []
    for name in options.only:
        for table in sections[name]():
            tables.append(table)
            print(markdown(table), flush=True)
    if options.rst:
        picture = []
        if options.plot and "scaling" in options.only:
            place = os.path.relpath(options.plot, options.rst.parent)
            picture = [f".. image:: {place}\n   :alt: Seconds against n and against the batch.\n"]
        options.rst.write_text("\n".join([where, "", *map(rst, tables), *picture]))
    if options.json:
        options.json.write_text(json.dumps({"machine": facts(), "tables": [t._asdict() for t in tables]}, indent=1))
    print(f"{time.perf_counter() - start:.0f} seconds in all", file=sys.stderr)


if __name__ == "__main__":
    main()
