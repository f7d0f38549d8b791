"""`orthogonalizer`, `frechet_derivative` and `cond_pth_root`."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
from table import EPS

from matroot import Status, cond_pth_root, frechet_derivative, orthogonalizer

from ..case import numpy_dtype
from ..draw import exponent
from ..large import LAYOUTS
from . import draws
from .derivatives import direction, draw_rule, judge_frechet
from .reference import FACTOR, Known, in_units, lost
from .singular import others_of
from .trial import Fault, Trial


def draw(rng: np.random.Generator) -> Trial:
    dtype, batch, (n, _) = draws.dtype_of(rng), draws.batch_of(rng), draws.shape_of(rng)
    name = str(rng.choice(["orthogonalizer", "frechet_derivative", "cond_pth_root"], p=[0.4, 0.35, 0.25]))
    some = [draws.symmetric(rng, n, dtype) for _ in range(int(np.prod(batch)))]
    layouts = tuple(str(rng.choice([*LAYOUTS])) for _ in range(2))
    basic: Any = {"batch": batch, "dtype": numpy_dtype(dtype), "layouts": layouts}
    if name == "orthogonalizer":
        options = {"rtol": float(10 ** -rng.uniform(1, 15))} if rng.random() < 0.3 else {}
        if some and rng.random() < 0.2 and np.isfinite(draws.wide(some[0])).all():
            options["absolute"] = float(abs(some[0]).max()) * 10 ** -rng.uniform(1, 8)
        judge = partial(judge_orthogonalizer, dtype, options)
        return Trial(
            name,
            [(A,) for A in some],
            shapes=((n, n),),
            call=partial(orthogonalizer, **options),
            judge=judge,
            text=draws.text_of(**options),
            ragged=("x", "mask"),
            others=others_of(rng, "torch", "jax", "recorded"),
            **basic,
        )
    if name == "cond_pth_root":
        p, inverse = int(rng.integers(1, 9)), bool(rng.random() < 0.6)
        return Trial(
            name,
            [(A,) for A in some],
            shapes=((n, n),),
            call=lambda a: cond_pth_root(a, p, inverse=inverse),
            judge=partial(judge_cond, p, inverse, dtype),
            text=f"p={p} inverse={inverse}",
            others=others_of(rng, "torch", "jax"),
            **basic,
        )
    s = exponent(rng)
    rule = draw_rule(rng) if rng.random() < 0.5 else None
    members = [(A, direction(rng, A)) for A in some]
    return Trial(
        name,
        members,
        shapes=((n, n), (n, n)),
        text=draws.text_of(s=s, rule=rule),
        call=lambda a, e: frechet_derivative(a, e, s=s, regularization=rule),
        judge=partial(judge_frechet, s, rule, dtype),
        poison=False,
        others=others_of(rng, "torch", "jax"),
        **basic,
    )


def judge_orthogonalizer(
    dtype: str, options: dict[str, Any], member: tuple[np.ndarray, ...], out: dict[str, np.ndarray]
) -> list[Fault]:
    A, status, x = member[0], int(out["status"]), out["x"]
    n, unit = len(A), EPS[dtype]
    faults: list[Fault] = []
    if x.dtype.newbyteorder("=") != numpy_dtype(dtype) or len(x) != n:
        faults.append(("kind", f"{x.dtype}{x.shape}"))
    if not np.isfinite(draws.wide(A)).all():
        return faults if status == Status.NONFINITE_INPUT else [("missed", "not finite")]
    known = Known(A, symmetric=True)
    w = known.values
    top = w[-1]
    least = float(np.ldexp(options.get("absolute", 0.0), -known.exponent))
    cut = max(options.get("rtol", 2 * n * unit) * max(top, 0), least)
    room = 4 * n * 2.0**-52 * abs(w).max()
    unclear = bool((abs(w - cut) < room + 1e-3 * cut).any()) and abs(w).any()
    limit = max(2 * n * unit * top, cut)
    negative = w[0] < -limit - room
    if status > Status.STAGNATED:
        if np.isfinite(draws.wide(x)).any():
            faults.append(("left over", ""))
        kept = w[w > cut]
        if kept.size and not w[0] < -limit + room and not unclear:
            size = np.log2(kept[0]) * -0.5 - known.exponent / 2
            info = np.finfo(np.float32 if dtype == "bfloat16" else numpy_dtype(dtype))
            if abs(size) < np.log2(float(info.max)) - 2:
                faults.append(("false alarm", f"{Status(status).name} {w}"))
        return faults
    if negative:
        return [*faults, ("missed", f"indefinite {w[0]:.1e} of {top:.1e}")]
    if unclear:
        return faults
    kept = w[w > cut]
    if int(out["rank"]) != len(kept):
        return [*faults, ("rank", f"told {out['rank']} is {len(kept)}")]
    if not len(kept):
        return faults
    kappa = top / kept[0]
    X = in_units(x, known.exponent, Fraction(-1, 2))[:, : len(kept)]
    true = float(np.linalg.norm(X.conj().T @ known.unit @ X - np.eye(len(kept))) / len(kept) ** 0.5)
    told = float(out["residual"])
    noise = 8 * 1.1e-16 * n * kappa
    below = true / FACTOR - noise if n <= 32 else true / 100 - noise
    if not (below <= told <= FACTOR * true + noise):
        faults.append(("residual", f"told {told:.1e} true {true:.1e} kappa {kappa:.1e}"))
    if status == 0 and true > FACTOR * (max(3, n**0.5) * unit * kappa + 12 * n * unit):
        faults.append(("wrong CONVERGED", f"true {true:.1e} kappa {kappa:.1e}"))
    # X X^H is the pseudo-inverse.
    P = known.function(lambda v: 1 / v if v > cut else 0 * v)
    error = np.linalg.norm(X @ X.conj().T - P, 2) / np.linalg.norm(P, 2)
    before = max(w[w <= cut].max(initial=0.0), 0.0)
    bar = max(3, n**0.5) * unit * kappa * (kept[0] / (kept[0] - before)) + 12 * n * unit
    if status == 0 and error > FACTOR * bar:
        faults.append(("wrong CONVERGED", f"error {error:.1e} bar {bar:.1e} kappa {kappa:.1e}"))
    for name, value in (("kept_least", kept[0]), ("smallest", w[0])):
        told = in_units(np.asarray(out[name]).reshape(1, 1), known.exponent, 1)[0, 0].real
        if not abs(told - value) <= 1e-10 * abs(value) + room + lost("float64", known.exponent, 1):
            faults.append((name, f"told {told:.6e} is {value:.6e}"))
    return faults


def judge_cond(
    p: int, inverse: bool, dtype: str, member: tuple[np.ndarray, ...], out: dict[str, np.ndarray]
) -> list[Fault]:
    A = member[0]
    told = float(out["x"])
    if not np.isfinite(draws.wide(A)).all():
        return [] if np.isnan(told) else [("missed", f"not finite: {told}")]
    w = Known(A, symmetric=True).values
    n, top = len(w), w[-1]
    share = max(n * 2.0**-52, 8 * EPS[dtype]) if dtype not in ("float64", "complex128") else n * 2.0**-52
    ratio = w[0] / top if top > 0 else 0.0
    if p == 1 and not inverse:
        if abs(ratio + share) < 0.3 * share + n * 1e-15:
            return []
        true = 1.0 if (ratio > -share and top >= 0) or not w.any() else np.inf
    elif abs(ratio - share) < 0.3 * share + n * 2e-16:
        return []
    elif ratio < share:
        true = np.inf
    else:
        w = w / top
        s = (-1 if inverse else 1) / p
        steepest = abs(s) * w[0] ** (s - 1)
        true = float(steepest * np.linalg.norm(w) / np.linalg.norm(w**s))
    slack = 1e-10 + 40 * n * 2e-16 / max(ratio, 1e-300)
    return [] if told == true or abs(told - true) <= slack * true else [("cond", f"told {told:.6e} is {true:.6e}")]
