"""Show the facts of a file's matrices, or, without a file, what matroot found on this machine.

Of a file: shape, dtype, symmetry gap, condition number, zero and negative eigenvalues, NaN of every array. Of the
machine: versions, backends, BLAS, threads, GPU.
"""

from __future__ import annotations

import argparse
import os
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

from matroot.cli import examine, problem

PACKAGES = ("numpy", "scipy", "numba", "array_api_compat", "threadpoolctl", "cupy", "torch", "jax", "optax")


EXAMPLES = """\
examples:
  matroot info
      for a bug report
  matroot info covariances.npz --key left
      are they symmetric, singular, indefinite? Which hold NaN?
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments of ``matroot info``."""
    parser.add_argument("file", metavar="FILE", type=Path, nargs="?", help=f"{problem.FORMATS}, (..., n, n)")
    parser.add_argument("--key", metavar="NAME", help="the one array wanted from an .npz file")


def run(options: argparse.Namespace) -> int:
    """Print the facts, one per line."""
    if options.file is not None:
        return examine.run(options)
    for name, text in facts().items():
        print(f"{name + ':':<18} {text}")
    return 0


def facts() -> dict[str, str]:
    """Return everything ``matroot info`` prints."""
    from matroot.backends.cpu import kernels
    from matroot.backends.cpu.cpu import usable_cores

    rows = {
        "matroot": installed("matroot"),
        "python": f"{platform.python_version()} on {platform.platform()}",
        "processor": f"{_processor()}, {os.cpu_count()} logical, {usable_cores()} for matroot",
    }
    rows |= {name: installed(name) for name in PACKAGES}
    rows |= _blas()
    rows["backend cpu"] = "LAPACK and BLAS through numpy and scipy, kernels by numba"
    rows["kernels"] = kernels.state()
    rows["backend gpu"] = _gpu()
    rows["auto"] = _profile()
    return rows


def _profile() -> str:
    """Return the tuned numbers in force, and their source."""
    from matroot.backends import profile

    numbers = ", ".join(f"{name} {value}" for name, value in asdict(profile.limits()).items())
    return f"{numbers} ({profile.path() if profile.present() else 'built in'})"


def installed(package: str) -> str:
    """Return the version of an importable package; distributions may have other names (cupy-cuda13x)."""
    for name in [package, *packages_distributions().get(package, [])]:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "not installed"


def _processor() -> str:
    """Return the processor's name, as reported by Linux."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _blas() -> dict[str, str]:
    """List every BLAS and OpenMP runtime in the process after numpy and scipy.linalg are loaded."""
    import scipy.linalg  # noqa: F401  (SciPy brings a BLAS of its own)
    from threadpoolctl import threadpool_info

    rows = {}
    for i, pool in enumerate(threadpool_info()):
        what = " ".join(str(pool[k]) for k in ("internal_api", "version", "architecture") if pool.get(k))
        folder = Path(pool["filepath"]).parent.name  # numpy.libs or scipy.libs, where a wheel brought it
        rows[f"{pool['user_api']} {i}"] = f"{what}, {pool['num_threads']} threads, in {folder}"
    return rows


def _gpu() -> str:
    try:
        import cupy
    except ImportError:
        return "none: cupy is not installed (extras cuda12, cuda13)"
    if not cupy.is_available():
        return "none: cupy sees no CUDA device"
    from matroot.backends.cuda.limits import described

    return "; ".join(described(cupy, i) for i in range(cupy.cuda.runtime.getDeviceCount()))
