"""Compile the kernels now, so that no first root has to wait for them; they are kept on disk for later processes."""

from __future__ import annotations

import argparse
import time

from matroot.cli.progress import Progress


def arguments(parser: argparse.ArgumentParser) -> None:
    """Do nothing: ``matroot warm-up`` takes no arguments."""


def run(options: argparse.Namespace) -> int:
    """Solve small problems, one for each kernel."""
    import numpy as np

    import matroot

    A = np.diag(np.arange(1.0, 5.0))
    start = time.perf_counter()
    with Progress(4, "compiling") as progress:
        matroot.solve(A, 4)
        progress.step()
        matroot.solve(np.diag(np.arange(0.0, 4.0)), 2, regularization=matroot.PseudoInverse())
        progress.step()
        matroot.solve(np.diag(np.arange(1.0, 257.0)), 4)
        progress.step()
        matroot.solve(matroot.gallery.general(96, 100.0, rng=0)[0], 6, assume_a="gen")
        progress.step()
    print(f"kernels are ready after {time.perf_counter() - start:.1f} s")
    return 0
