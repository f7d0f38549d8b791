"""Measure on this machine which method is fastest where, for method "auto". Takes about a minute; leave it alone."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments: the path of the profile, or a reset."""
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="instead of the user's profile")
    parser.add_argument("--reset", action="store_true", help="remove the user's profile: back to the built-in one")


def run(options: argparse.Namespace) -> int:
    """Measure and write the profile, or reset it."""
    from matroot import use_kernels
    from matroot.backends import profile
    from matroot.backends.cuda import limits as gpu_limits
    from matroot.cli import tune_cpu as tune
    from matroot.cli import tune_gpu

    where = options.output or profile.path()
    if options.reset:
        where.unlink(missing_ok=True)
        profile.limits.cache_clear()
        gpu_limits.path().unlink(missing_ok=True)
        print(f"removed {where}")
        return 0
    if where.exists() and not where.is_file():
        raise ValueError(f"{where} is no file, a file name is wanted")
    use_kernels()
    found = tune.measure(lambda line: print(line, flush=True))
    profile.save(found, where)
    print(f"{where}: {', '.join(f'{name} {value}' for name, value in asdict(found).items())}")
    tune_gpu.tune(lambda line: print(line, flush=True))
    return 0
