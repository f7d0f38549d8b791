"""The root functions of other optimizers beside ours, as the tables of the docs: ``python asv_benchmarks/others.py``.

Meta's and NVIDIA's need Python 3.12 and are in no package index: put checkouts of facebookresearch/optimizers and of
NVIDIA-NeMo/Emerging-Optimizers on PYTHONPATH. What cannot be imported is left out.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from typing import Any

from benchmarks import common  # isort: skip  # pins the process first

import numpy as np
from benchmarks import peers
from list_table import list_table

import matroot

#: Takes a float32 matrix and p, and returns the function that computes A^{-1/p}, and what it says of it.
Peer = Callable[[Any, int], Callable[[], tuple[Any, str]]]
CONDITIONS, DEGREES = (1e2, 1e4, 1e6), (2, 4)


def others() -> dict[str, Peer]:
    """Ours and the others, by the names of the tables: without a ridge; other settings are their own defaults."""
    found: dict[str, Peer] = {
        "**matroot**": _ours,
        "torch's ``eigh`` and product": lambda A, p: _silent(peers.torch_eigh(A, p)),
        "Google (optax): coupled Newton": _google,
    }
    try:
        from distributed_shampoo.preconditioner import matrix_functions_types as kinds

        configs = {
            "eigen": kinds.EigenConfig(),
            "coupled Newton": kinds.CoupledNewtonConfig(),
            "higher order": kinds.CoupledHigherOrderConfig(rel_epsilon=0.0, abs_epsilon=0.0),
        }
        found |= {f"Meta: {name}": partial(_meta, config) for name, config in configs.items()}
    except ImportError as error:
        print(error, file=sys.stderr)
    try:
        from emerging_optimizers.legacy_soap import matrix_root_inverse_utils as nvidia

        found["NVIDIA: CANS, p = 2 only"] = partial(_nvidia, nvidia.mat_root_inv_via_scaled_cans)
        found["NVIDIA: ``eigh``, p = 2 only"] = partial(_nvidia, nvidia.inv_root_via_eigh)
    except ImportError as error:
        print(error, file=sys.stderr)
    return found


def _ours(A: Any, p: int) -> Callable[[], tuple[Any, str]]:
    def run() -> tuple[Any, str]:
        result = matroot.solve(A, p)
        return result.x, matroot.Status(int(result.status)).name

    return run


def _silent(root: Callable[[], Any]) -> Callable[[], tuple[Any, str]]:
    return lambda: (root(), "")


def _google(A: Any, p: int) -> Callable[[], tuple[Any, str]]:
    import jax
    import optax

    root = jax.jit(partial(optax.matrix_inverse_pth_root, p=p, ridge_epsilon=0.0))
    a = jax.numpy.asarray(A)

    def run() -> tuple[Any, str]:
        X, error = jax.block_until_ready(root(a))
        return X, f"its figure: {float(error):.0e}"

    return run


def _meta(config: Any, A: Any, p: int) -> Callable[[], tuple[Any, str]]:
    import torch
    from distributed_shampoo.preconditioner.matrix_functions import matrix_inverse_root

    return _silent(partial(matrix_inverse_root, torch.from_numpy(A), Fraction(p), config, epsilon=1e-12))


def _nvidia(root: Callable[..., Any], A: Any, p: int) -> Callable[[], tuple[Any, str]]:
    import torch

    if p != 2:
        raise NotImplementedError
    return _silent(partial(root, torch.from_numpy(A)))


def exact(A: Any, p: int) -> Any:
    """A^{-1/p} of the matrix as it is, by numpy in double precision, which has nine digits more than float32."""
    w, Q = np.linalg.eigh(A.astype(np.float64))
    return (Q * w ** (-1 / p)) @ Q.T


def error_of(X: Any, A: Any, p: int) -> float:
    """Relative error in the 2-norm."""
    want = exact(A, p)
    return float(np.linalg.norm(np.asarray(X, np.float64) - want, 2) / np.linalg.norm(want, 2))


def good(n: int, rounds: int) -> Iterator[list[str]]:
    """Rows of the table of errors and milliseconds."""
    known = others()
    cases = [(cond, p) for p in DEGREES for cond in CONDITIONS]
    cells: dict[str, list[str]] = {name: [name] for name in known}
    for cond, p in cases:
        A = common.stack(n, 1, cond, "float32")[0][0]
        calls: dict[str, Callable[[], Any]] = {}
        for name, peer in known.items():
            try:
                calls[name] = peer(A, p)
            except NotImplementedError:
                cells[name].append("")
        seconds = common.in_turn(*calls.values(), rounds=rounds)
        for (name, call), spent in zip(calls.items(), seconds, strict=True):
            cells[name].append(f"{error_of(call()[0], A, p):.0e} | {1e3 * spent:.1f}")
    yield ["", *(f"p = {p}, cond {cond:.0e}" for cond, p in cases)]
    yield from cells.values()


def bad(n: int) -> Iterator[list[str]]:
    """Rows of what comes back for matrices out of the ordinary, p = 2."""
    A = common.stack(n, 1, 1e3, "float32")[0][0]
    w, Q = np.linalg.eigh(A.astype(np.float64))
    indefinite, singular = w.copy(), w.copy()
    indefinite[0], singular[: n // 4] = -0.1 * w[-1], 0.0
    matrices = {
        "an eigenvalue is -0.1": (Q * indefinite) @ Q.T,
        "a quarter of the eigenvalues is 0": (Q * singular) @ Q.T,
        "an entry is NaN": np.where(np.eye(n, k=3) > 0, np.nan, A),
        "entries near 1e-24": A * 1e-24,
        "entries near 1e+30": A * 1e30,
    }
    yield ["", *matrices]
    for name, peer in others().items():
        row = [name]
        for title, B in matrices.items():
            row.append(_told(peer, ((B + B.T) / 2).astype(np.float32), defined="near" in title))
        yield row


def _told(peer: Peer, A: Any, *, defined: bool) -> str:
    try:
        X, word = peer(A, 2)()
    except Exception as error:
        return f"``{type(error).__name__}``"
    X = np.asarray(X)
    found = "not finite"
    if np.isfinite(X).all():
        found = f"error {error_of(X, A, 2):.0e}" if defined else f"entries up to {abs(X).max():.0e}"
    return f"{found}; {word}" if word else found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=256, help="order of the matrices")
    parser.add_argument("--rounds", type=int, default=7, help="samples of each time")
    parser.add_argument("--tables", required=True, help="a folder for both tables")
    given = parser.parse_args()
    made = {
        "others_good": (
            f"Relative error | milliseconds of one root, float32, n = {given.n}",
            good(given.n, given.rounds),
        ),
        "others_bad": (f"What comes back, p = 2, n = {given.n}", bad(given.n)),
    }
    for name, (title, rows) in made.items():
        with open(os.path.join(given.tables, f"{name}.rst"), "w", encoding="utf-8") as file:
            file.write(list_table(rows, title))


if __name__ == "__main__":
    main()
