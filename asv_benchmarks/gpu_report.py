"""Measure every promise about the GPU and print the table: ``python asv_benchmarks/gpu_report.py``.

Both sides of a ratio run in turn, timed by CUDA events on one stream; medians are compared. The JSON beside the table
says on which card, with which driver and versions, and when. Under 8 minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from matroot import gallery, solve
from matroot.engines.gpu import GPU

Array = Any
LIMIT = 7.5 * 60  # seconds; cases that would start later are left out, and named
ROUNDS = 7
LAYERS, SMALL, REPEATED, MIXED = (64, 1024), (4096, 64), (64, 256), (32, 512)  # matrices, n


class Row(NamedTuple):
    """One figure: what, how much, and what was promised."""

    what: str
    value: float
    unit: str
    promise: str = ""


def main() -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", default="gpu_report.json", help="where to write the figures")
    options = parser.parse_args()
    try:
        import cupy
    except ImportError:
        return sorry("cupy is not installed: python -m pip install 'matroot[cuda13]' (or cuda12)")
    if not cupy.is_available():
        return sorry("cupy sees no CUDA device here, and these figures need one; nothing was measured")
    begin, rows, left_out = time.monotonic(), [], []
    machine = facts(cupy)
    for name, text in machine.items():
        print(f"{name:>12}: {text}")
    for case in (layers, small, precision, launches):
        if time.monotonic() - begin > LIMIT:
            left_out.append(case.__name__)
            continue
        for row in case(cupy):
            rows.append(row)
            print(f"{row.what:<66} {row.value:>10.3g} {row.unit:<8} {row.promise}", flush=True)
    if left_out:
        print(f"left out for want of time: {', '.join(left_out)}")
    with open(options.json, "w") as file:
        json.dump({"machine": machine, "rows": [r._asdict() for r in rows], "left_out": left_out}, file, indent=1)
    return 0


def sorry(why: str) -> int:
    """Say why there is no table."""
    print(why, file=sys.stderr)
    return 2


def facts(cupy: Any) -> dict[str, str]:
    """The card and the versions."""
    card = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    versions = {"cupy": cupy.__version__, "numpy": np.__version__}
    torch = torch_cuda()
    if torch is not None:
        versions["torch"] = torch.__version__
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


def in_turn(cupy: Any, *sides: Callable[[], Any]) -> list[float]:
    """Median seconds of each side, taken in turn after a warm-up; a side that takes over 5 s runs twice only."""
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(ROUNDS + 1):
        for side, taken in zip(sides, times, strict=True):
            if len(taken) >= 2 and taken[-1] > 5:
                continue
            start, end = cupy.cuda.Event(), cupy.cuda.Event()
            start.record()
            side()
            end.record()
            end.synchronize()
            taken.append(cupy.cuda.get_elapsed_time(start, end) / 1e3)
    return [statistics.median(taken[1:]) for taken in times]


def layers(cupy: Any) -> list[Row]:
    """64 matrices of 1024 x 1024 float32, kappa 1e6, p = 4."""
    (B, n), p = LAYERS, 4
    A = stack(cupy, B, n, 1e6, "float32")
    ours = lambda: solve(A, p, compute_dtype="float32", regularization=1e-6)  # noqa: E731
    result = ours()
    one = lambda: cupy.matmul(A, A)  # noqa: E731
    sides: dict[str, Callable[[], Any]] = {
        "matroot": ours,
        "product": one,
        "cupy eigh": lambda: cupy_eigh(cupy, A, p),
        "looped coupled Newton": looped_newton(A, p),
    }
    torch = torch_cuda()
    if torch is not None:
        T = torch.from_dlpack(A)
        sides["torch eigh"] = lambda: torch_eigh(torch, T, p)
    times = dict(zip(sides, in_turn(cupy, *sides.values()), strict=True))
    t, product = times["matroot"], times["product"]
    what = f"{B} x {n} x {n} float32"
    rows = [
        Row(f"{what}: matroot", t * 1e3, "ms"),
        Row(f"{what}: products, share of the time", 100 * result.n_products * product / t, "%", ">= 60"),
        Row(f"{what}: one product, rate", 2e-12 * B * n**3 / product, "TFLOP/s"),
    ]
    promises = {"torch eigh": ">= 20", "looped coupled Newton": ">= 3"}
    rows += [
        Row(f"{what}: {name} / matroot", times[name] / t, "x", promises.get(name, ""))
        for name in sides
        if name not in ("matroot", "product")
    ]
    return rows


def small(cupy: Any) -> list[Row]:
    """4096 matrices of 64 x 64 float32; small.cu, which is off by default, beside the products of cuBLAS."""
    A = stack(cupy, *SMALL, 1e4, "float32")
    sides: dict[str, Callable[[], Any]] = {
        "matroot": lambda: solve(A, 4, regularization=1e-6),
        "small.cu in float32": lambda: by_small_cu(A, "float32"),
        "small.cu in float64": lambda: by_small_cu(A, "float64"),
        "cupy eigh": lambda: cupy_eigh(cupy, A, 4),
    }
    torch = torch_cuda()
    if torch is not None:
        T = torch.from_dlpack(A)
        sides["torch eigh"] = lambda: torch_eigh(torch, T, 4)
    times = dict(zip(sides, in_turn(cupy, *sides.values()), strict=True))
    t = times.pop("matroot")
    what = "{} x {n} x {n} float32".format(SMALL[0], n=SMALL[1])
    rows = [Row(f"{what}: matroot", t * 1e3, "ms")]
    rows += [Row(f"{what}: {name} / matroot", s / t, "x") for name, s in times.items()]
    eigh = min(s for name, s in times.items() if name.endswith("eigh"))
    return [*rows, Row(f"{what}: the better eigh / matroot", eigh / t, "x", ">= 10")]


def by_small_cu(A: Array, dtype: str) -> Any:
    """A solve whose matrices go to small.cu where a block has room for them."""
    before, GPU.fused = GPU.fused, 64
    try:
        return solve(A, 4, regularization=1e-6, compute_dtype=dtype)
    finally:
        GPU.fused = before


def precision(cupy: Any) -> list[Row]:
    """float64 iterations for float32's time, and what they buy."""
    B, n = MIXED
    A, root = gallery.spd(n, 1e6, rng=0)
    Y = root(Fraction(-1, 4))
    A64 = cupy.broadcast_to(cupy.asarray(A), (B, n, n)).copy()
    A32 = A64.astype("float32")
    error = np.linalg.norm(solve(A64, 4).x[0].get() - Y, 2) / np.linalg.norm(Y, 2)
    wide, narrow = in_turn(
        cupy,
        lambda: solve(A32, 4, compute_dtype="float64"),
        lambda: solve(A32, 4, compute_dtype="float32"),
    )
    what = f"{B} x {n} x {n}, kappa 1e6"
    return [
        Row(f"{what}: forward error, float64 in", error, "", "< 1e-8"),
        Row(f"{what}: float32 in, float64 inside / float32 inside", wide / narrow, "x", "<= 1.5"),
    ]


def launches(cupy: Any) -> list[Row]:
    """A repeated shape: what the pool grows by, and how long the host is busy before it gets control back."""
    A = stack(cupy, *REPEATED, 1e4, "float32")
    for _ in range(3):
        solve(A, 4, regularization=1e-6)
    cupy.cuda.Device().synchronize()
    pool = cupy.get_default_memory_pool()
    before, begin = pool.total_bytes(), time.perf_counter()
    for _ in range(10):
        solve(A, 4, regularization=1e-6)
    host = (time.perf_counter() - begin) / 10
    cupy.cuda.Device().synchronize()
    what = "{} x {n} x {n}, repeated".format(REPEATED[0], n=REPEATED[1])
    return [
        Row(f"{what}: new memory", pool.total_bytes() - before, "bytes", "0"),
        Row(f"{what}: host time of a call", host * 1e3, "ms"),
    ]


def stack(cupy: Any, B: int, n: int, cond: float, dtype: str) -> Array:
    """B matrices of a few spectra, made on the host once and repeated."""
    spectra = ("geometric", "two_cluster", "power_law", "arithmetic")
    some = cupy.stack([cupy.asarray(gallery.spd(n, cond, s, rng=k)[0]) for k, s in enumerate(spectra)])
    return cupy.tile(some, (B // len(some), 1, 1)).astype(dtype)


def cupy_eigh(cupy: Any, A: Array, p: int) -> Array:
    """cupy.linalg.eigh and recombination."""
    w, Q = cupy.linalg.eigh(A)
    return (Q * cupy.maximum(w, 1e-7)[:, None, :] ** (-1 / p)) @ Q.swapaxes(-1, -2)


def torch_eigh(torch: Any, A: Array, p: int) -> Array:
    """torch.linalg.eigh and recombination, on the default stream, which is cupy's too."""
    w, Q = torch.linalg.eigh(A)
    return (Q * w.clamp(min=1e-7)[:, None, :] ** (-1 / p)) @ Q.mT


def looped_newton(A: Array, p: int) -> Callable[[], list[Array]]:
    """Coupled Newton a matrix at a time, its error read on the host in every step, as optimizers write it."""
    import cupy

    eye = cupy.eye(A.shape[-1], dtype=A.dtype)

    def root(a: Array) -> Array:
        a = a + 1e-6 * float(cupy.linalg.norm(a)) * eye
        z = (1 + p) / (2 * float(cupy.linalg.norm(a)))
        M, X, error = z * a, z ** (1 / p) * eye, float("inf")
        for _ in range(100):
            T = ((p + 1) * eye - M) / p
            X_next = X @ T
            T2 = T @ T
            M = (T2 @ T2 if p == 4 else cupy.linalg.matrix_power(T, p)) @ M
            new = float(abs(M - eye).max())  # the wait
            if new > 1.2 * error:
                break
            X, error = X_next, new
            if error <= 1e-6:
                break
        return X

    return lambda: [root(a) for a in A]


if __name__ == "__main__":
    sys.exit(main())
