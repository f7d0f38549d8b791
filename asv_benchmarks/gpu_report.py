"""Measure every promise about the GPU and print the table: ``python asv_benchmarks/gpu_report.py``.

The sides of a ratio run in turn, timed by CUDA events on one stream; medians are compared. The JSON file is rewritten
after every case and names the card, the driver, the versions and the time. The report takes under 8 minutes. A case
that fails is named with its error, and the other cases still run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from gpu_peers import cupy_eigh, looped_newton, torch_eigh

from matroot import gallery, solve
from matroot.backends.cuda.gpu import gpu
from matroot.backends.cuda.limits import GPULimits
from matroot.cli import tune_gpu

Array = Any
Side = Callable[[], Any]
LIMIT = 7 * 60.0  # seconds after which no case starts and no side runs again
SLOW = 4.0  # seconds of a side that runs twice only
ROUNDS = 7
LAYERS, SMALL, REPEATED, MIXED, LARGE = (64, 1024), (4096, 64), (64, 256), (32, 512), 8192  # matrices, n
PROOFS = (16, 48, 64, 200)  # n at which every shortcut is compared with the long way
LONG_WAY = GPULimits()
SHORTCUTS = {
    "stack.cu": GPULimits(kernels=1),
    "a graph": GPULimits(graphs=1 << 40),
    "stack.cu and a graph": GPULimits(kernels=1, graphs=1 << 40),
}
HALVES = GPULimits(halves=1)
ROUNDED = (100, 1e1, 1e-1)  # n for the errors, cond, rtol of the low-accuracy modes


class Row(NamedTuple):
    """One figure: what, how much, and what was promised."""

    what: str
    value: float
    unit: str
    promise: str = ""


@dataclass
class Report:
    """The results so far, and the start of the measurement."""

    cupy: Any
    torch: Any
    machine: dict[str, str]
    begin: float = field(default_factory=time.monotonic)
    rows: list[Row] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    limits: dict[str, int] = field(default_factory=dict)

    def late(self) -> bool:
        """Return True if the time limit is exceeded."""
        return time.monotonic() - self.begin > LIMIT

    def write(self, path: str) -> None:
        """Write everything measured so far to a JSON file."""
        found = {
            "machine": self.machine,
            "seconds": round(time.monotonic() - self.begin, 1),
            "rows": [row._asdict() for row in self.rows],
            "failed": self.failed,
            "left_out": self.left_out,
            "limits": self.limits,
        }
        with open(path, "w") as file:
            json.dump(found, file, indent=1)

    def in_turn(self, sides: dict[str, Side]) -> dict[str, float]:
        """Median seconds of each side, taken in turn after a warm-up; a side that fails is named and left out."""
        times: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(ROUNDS + 1):
            for name, side in sides.items():
                taken = times[name]
                if name in self.failed or (len(taken) > 1 and (taken[-1] > SLOW or self.late())):
                    continue
                try:
                    taken.append(tune_gpu.milliseconds(self.cupy, side) / 1e3)
                except Exception as error:  # a card, a driver or a peer that cannot: the others can
                    self.fail(name, error)
        return {name: statistics.median(taken[1:]) for name, taken in times.items() if name not in self.failed}

    def fail(self, name: str, error: Exception) -> None:
        """Keep an error and go on."""
        self.failed[name] = f"{type(error).__name__}: {str(error)[:300]}"
        print(f"{name} failed: {self.failed[name]}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", default="gpu_report.json", help="where to write the figures")
    options = parser.parse_args(arguments)
    try:
        import cupy
    except ImportError:
        return sorry("cupy is not installed: python -m pip install 'matroot[cuda13]' (or cuda12)")
    if not cupy.is_available():
        return sorry("cupy sees no CUDA device here, and these figures need one; nothing was measured")
    torch = torch_cuda()
    report = Report(cupy, torch, facts(cupy, torch))
    for name, text in report.machine.items():
        print(f"{name:>12}: {text}")
    for case in (shortcuts, layers, small, precision, rounded, launches, tuned):
        if report.late():
            report.left_out.append(case.__name__)
            continue
        try:
            for row in case(report):
                report.rows.append(row)
                print(f"{row.what:<72} {row.value:>10.3g} {row.unit:<8} {row.promise}", flush=True)
        except Exception as error:
            report.fail(case.__name__, error)
        report.write(options.json)
    if report.left_out:
        print(f"left out for want of time: {', '.join(report.left_out)}")
    report.write(options.json)
    return 1 if report.failed else 0


def sorry(why: str) -> int:
    """Say why there is no table."""
    print(why, file=sys.stderr)
    return 2


def facts(cupy: Any, torch: Any) -> dict[str, str]:
    """The card and the versions."""
    card = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    versions = {"cupy": cupy.__version__, "numpy": np.__version__, "torch": getattr(torch, "__version__", "none")}
    memory = f"{card['totalGlobalMem'] / 2**30:.0f} GiB"
    return {
        "card": f"{card['name'].decode()} (sm_{card['major']}{card['minor']}), {memory}",
        "driver": f"CUDA {cupy.cuda.runtime.driverGetVersion()}, runtime {cupy.cuda.runtime.runtimeGetVersion()}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def torch_cuda() -> Any:
    """torch, if it is there and sees the card."""
    try:
        import torch
    except ImportError:
        return None
    return torch if torch.cuda.is_available() else None


@contextmanager
def limits(report: Report, chosen: GPULimits) -> Iterator[None]:
    """Shortcuts taken as `chosen` says, whatever this user's profile says."""
    backend = gpu(report.cupy.cuda.Device().id)
    before, backend.limits = backend.limits, chosen
    try:
        yield
    finally:
        backend.limits = before


def by(report: Report, chosen: GPULimits, A: Array, **options: Any) -> Side:
    """A solve of A with p = 4 by these shortcuts."""

    def side() -> Any:
        with limits(report, chosen):
            return solve(A, 4, **options)

    return side


def stack(report: Report, B: int, n: int, cond: float, dtype: str) -> Array:
    """B matrices of a few spectra, made on the host once and repeated."""
    cupy = report.cupy
    spectra = ("geometric", "two_cluster", "power_law", "arithmetic")[:B]
    some = cupy.stack([cupy.asarray(gallery.spd(n, cond, s, rng=k)[0]) for k, s in enumerate(spectra)])
    return cupy.tile(some, (B // len(some), 1, 1)).astype(dtype)


def shortcuts(report: Report) -> Iterator[Row]:
    """Every shortcut gives the root of the long way: relative distance, float64."""
    for n in PROOFS:
        A = stack(report, 4, n, 1e4, "float64")
        Y = by(report, LONG_WAY, A)().x.get()
        ways = dict(SHORTCUTS)
        if n <= 64:
            ways["small.cu"] = GPULimits(fused=64)
        for name, chosen in ways.items():
            try:
                X = by(report, chosen, A)().x.get()
                X = by(report, chosen, A)().x.get() if chosen.graphs else X  # the second is the replay
            except Exception as error:
                report.fail(f"{name}, n = {n}", error)
                continue
            distance = max(np.linalg.norm(x - y) / np.linalg.norm(y) for x, y in zip(X, Y, strict=True))
            yield Row(f"n = {n}: distance of the root by {name} from the long way's", distance, "", "<= 1e-11")
        A = A.astype("float32")
        X, Y = (by(report, chosen, A, compute_dtype="float64")().x.get() for chosen in (HALVES, LONG_WAY))
        distance = max(float(np.linalg.norm(x - y) / np.linalg.norm(y)) for x, y in zip(X, Y, strict=True))
        yield Row(f"n = {n}: distance of the root by halves from the long way's", distance, "", "<= 1e-6")


def layers(report: Report) -> Iterator[Row]:
    """64 matrices of 1024 x 1024 float32, kappa 1e6, p = 4."""
    cupy, torch = report.cupy, report.torch
    (B, n), p = LAYERS, 4
    A = stack(report, B, n, 1e6, "float32")
    options = {"compute_dtype": "float32", "regularization": 1e-6}
    result = by(report, LONG_WAY, A, **options)()
    one, large = cupy.empty_like(A), cupy.ones((LARGE, LARGE), "float32")
    sides: dict[str, Side] = {
        "matroot": by(report, LONG_WAY, A, **options),
        **{name: by(report, chosen, A, **options) for name, chosen in SHORTCUTS.items()},
        "one product": lambda: cupy.matmul(A, A, out=one),
        "a large product": lambda: cupy.matmul(large, large),
        "cupy eigh": lambda: [cupy_eigh(cupy, a, p) for a in A],
        "looped coupled Newton": looped_newton(cupy, torch, A, p),
        "matroot in float64": by(report, LONG_WAY, A, compute_dtype="float64", regularization=1e-6),
        "matroot in float64, by halves": by(report, HALVES, A, compute_dtype="float64", regularization=1e-6),
    }
    if torch is not None:
        T = torch.from_dlpack(A)
        sides["torch eigh"] = lambda: torch_eigh(torch, T, p)
    times = report.in_turn(sides)
    what = f"{B} x {n} x {n} float32"
    best = min((name for name in ("matroot", *SHORTCUTS) if name in times), key=times.__getitem__)
    t = times[best]
    for name in ("matroot", *SHORTCUTS, "matroot in float64", "matroot in float64, by halves"):
        if name in times:
            yield Row(f"{what}: {name}", times[name] * 1e3, "ms")
    if "one product" in times:
        rate = 2e-12 * B * n**3 / times["one product"]
        yield Row(f"{what}: one product, rate", rate, "TFLOP/s")
        if "a large product" in times:
            whole = 2e-12 * LARGE**3 / times["a large product"]
            yield Row(f"{what}: of the rate of a product of n = {LARGE}", 100 * rate / whole, "%", ">= 70")
        share = 100 * result.n_products * times["one product"] / t
        yield Row(f"{what}: {result.n_products} products, share of the time ({best})", share, "%", ">= 60")
    promises = {"torch eigh": ">= 20", "looped coupled Newton": ">= 3", "cupy eigh": ""}
    for name, promise in promises.items():
        if name in times:
            yield Row(f"{what}: {name} / {best}", times[name] / t, "x", promise)


def small(report: Report) -> Iterator[Row]:
    """4096 matrices of 64 x 64 float32, and smaller ones."""
    cupy, torch = report.cupy, report.torch
    for B, n in (SMALL, (SMALL[0], SMALL[1] // 4)):
        A = stack(report, B, n, 1e4, "float32")
        sides: dict[str, Side] = {"matroot": by(report, LONG_WAY, A, regularization=1e-6)}
        for dtype in ("float32", "float64"):
            for name, kernels in (("small.cu", 0), ("small.cu and stack.cu", 1)):
                chosen = GPULimits(fused=64, kernels=kernels)
                options = {"regularization": 1e-6, "compute_dtype": dtype}
                sides[f"{name} in {dtype}"] = by(report, chosen, A, **options)
        sides["cupy eigh"] = lambda A=A: cupy_eigh(cupy, A, 4)
        if torch is not None:
            T = torch.from_dlpack(A)
            sides["torch eigh"] = lambda T=T: torch_eigh(torch, T, 4)
        times = report.in_turn(sides)
        what = f"{B} x {n} x {n} float32"
        eigh = [times.pop(name) for name in ("cupy eigh", "torch eigh") if name in times]
        for name, t in times.items():
            yield Row(f"{what}: {name}", t * 1e3, "ms")
        if eigh and times:
            best = min(times, key=times.__getitem__)
            yield Row(
                f"{what}: the better eigh / {best}", min(eigh) / times[best], "x", ">= 10" if n == SMALL[1] else ""
            )


def precision(report: Report) -> Iterator[Row]:
    """float64 iterations for float32's time, and what they buy."""
    cupy = report.cupy
    B, n = MIXED
    A, root = gallery.spd(n, 1e6, rng=0)
    Y = root(Fraction(-1, 4))
    A64 = cupy.broadcast_to(cupy.asarray(A), (B, n, n)).copy()
    A32 = A64.astype("float32")
    X = by(report, LONG_WAY, A64)().x[0].get()
    what = f"{B} x {n} x {n}, kappa 1e6"
    yield Row(f"{what}: forward error, float64 in", np.linalg.norm(X - Y, 2) / np.linalg.norm(Y, 2), "", "< 1e-8")
    times = report.in_turn({t: by(report, LONG_WAY, A32, compute_dtype=t) for t in ("float64", "float32")})
    if len(times) == 2:
        ratio = times["float64"] / times["float32"]
        yield Row(f"{what}: float32 in, float64 inside / float32 inside", ratio, "x", "<= 1.5")


def rounded(report: Report) -> Iterator[Row]:
    """The low-accuracy modes: their time beside float32's, with one schedule, and their errors."""
    n, cond, rtol = ROUNDED
    A, root = gallery.spd(n, cond, rng=0)
    small, Y = report.cupy.asarray(A.astype("float32")), root(Fraction(-1, 4))
    B, N = LAYERS
    large = stack(report, B, N, cond, "float32")
    modes = ("float32", "tf32", "bfloat16")
    for mode in modes:
        result = by(report, LONG_WAY, small, compute_dtype=mode, rtol=rtol)()
        error = float(np.linalg.norm(result.x.get() - Y, 2) / np.linalg.norm(Y, 2))
        yield Row(f"n = {n}, kappa {cond:.0e}: forward error in {mode}", error, "", f"<= {rtol}")
    options = {"rtol": rtol, "regularization": 1 / cond}
    times = report.in_turn({mode: by(report, LONG_WAY, large, compute_dtype=mode, **options) for mode in modes})
    for mode, t in times.items():
        yield Row(f"{B} x {N} x {N}, kappa {cond:.0e}, rtol {rtol}: {mode}", t * 1e3, "ms")


def launches(report: Report) -> Iterator[Row]:
    """A repeated shape: what the pool grows by, whether the host waits, and how long it is busy."""
    cupy = report.cupy
    A = stack(report, *REPEATED, 1e4, "float32")
    what = f"{REPEATED[0]} x {REPEATED[1]} x {REPEATED[1]}, repeated"
    for name, chosen in {"the long way": LONG_WAY, **SHORTCUTS}.items():
        side = by(report, chosen, A, regularization=1e-6)
        for _ in range(3):
            side()
        cupy.cuda.Device().synchronize()
        pool = cupy.get_default_memory_pool()
        before, begin = pool.total_bytes(), time.perf_counter()
        for _ in range(10):
            side()
        host = (time.perf_counter() - begin) / 10
        cupy.cuda.Device().synchronize()
        yield Row(f"{what}: new memory, {name}", pool.total_bytes() - before, "bytes", "0")
        yield Row(f"{what}: host time of a call, {name}", host * 1e3, "ms")
        yield Row(f"{what}: waits for the card, {name}", waits(side), "", "0")


def waits(side: Side) -> int:
    """1 if cupy has to wait for the card somewhere in `side`."""
    import warnings

    import cupyx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the detector is announced as leaving
        detector = cupyx.allow_synchronize(False)
        detector.__enter__()
    try:
        side()
    except cupyx.DeviceSynchronized:
        return 1
    finally:
        detector.__exit__(None, None, None)
    return 0


def tuned(report: Report) -> Iterator[Row]:
    """Measure the choices of ``matroot tune`` on this machine, without saving them."""
    backend = gpu(report.cupy.cuda.Device().id)
    found = asdict(tune_gpu.measure(backend, lambda line: print(f"    {line}", flush=True)))
    report.limits.update(found)
    for name, value in found.items():
        yield Row(f"matroot tune: {name}", value, "")


if __name__ == "__main__":
    sys.exit(main())
