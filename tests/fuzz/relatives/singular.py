"""`polar`, `spectral_power` and `spectral_derivative`."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
from table import EPS

from matroot import Status, polar, spectral_derivative, spectral_power

from ..case import numpy_dtype
from ..exact import Exact, identity, ratio, real_form
from ..large import LAYOUTS
from . import draws
from .derivatives import direction, judge_spectral
from .reference import FACTOR, Known, in_units, lost, odd
from .trial import Fault, Trial


def others_of(rng: np.random.Generator, *some: str) -> tuple[str, ...]:
    return (str(rng.choice(some)),) if rng.random() < 0.4 else ()


def draw(rng: np.random.Generator) -> Trial:
    dtype, batch, (m, n) = draws.dtype_of(rng), draws.batch_of(rng), draws.shape_of(rng)
    name = str(rng.choice(["polar", "spectral_power", "spectral_derivative"], p=[0.4, 0.4, 0.2]))
    some = [draws.rectangular(rng, m, n, dtype) for _ in range(int(np.prod(batch)))]
    layouts = tuple(str(rng.choice([*LAYOUTS])) for _ in range(2))
    s = exponent(rng) if name != "polar" else Fraction(0)
    if name == "spectral_derivative":
        members = [(A, direction(rng, A)) for A in some]
        shapes: Any = ((m, n), (m, n))
        call = lambda a, e: spectral_derivative(a, e, s)  # noqa: E731
        return Trial(
            name,
            members,
            batch,
            shapes,
            numpy_dtype(dtype),
            call,
            f"s={s}",
            partial(judge_spectral, s, dtype),
            layouts=layouts,
            poison=False,
            others=others_of(rng, "torch", "jax"),
        )
    options: dict[str, Any] = {"method": str(rng.choice(["auto", "products", "svd"], p=[0.7, 0.15, 0.15]))}
    if rng.random() < 0.15:
        options["rtol"] = float(10 ** -rng.uniform(1, 15))
    if name == "polar":
        call, judge = partial(polar, **options), partial(judge_polar, dtype, options)
    else:
        call, judge = lambda a: spectral_power(a, s, **options), partial(judge_power, s, dtype, options)
    return Trial(
        name,
        [(A,) for A in some],
        batch,
        ((m, n),),
        numpy_dtype(dtype),
        call,
        draws.text_of(s=s, **options),
        judge,
        layouts=layouts[:1],
        others=others_of(rng, "torch", "recorded", "jax"),
    )


def exponent(rng: np.random.Generator) -> Fraction | float | int:
    kind = rng.integers(4)
    if kind == 0:
        return int(rng.integers(-1, 4))
    if kind == 1:
        return float(rng.choice([-1.0, -0.5, 0.25, 0.5, 1.5]))
    if kind == 2:
        return Fraction(-int(rng.integers(1, 5)), int(rng.integers(4, 9)))
    return Fraction(int(rng.integers(1, 9)), int(rng.integers(1, 9)))


class Found:
    """What is known of U S^s V^H: which singular values count as 0, and how hard the power is."""

    def __init__(self, A: np.ndarray, s: Any, dtype: str, rtol: float | None, method: str) -> None:
        self.known, self.s = Known(A), Fraction(s)
        m, n = max(A.shape), min(A.shape)
        S, unit = self.known.values, EPS[dtype]
        norm, top = float(np.linalg.norm(S)), float(S[0])
        noise = 16 * unit * (m**-0.5 + n**-0.5) * norm + 16 * m**0.5 * 1.1e-16 * top
        cut = rtol * top if rtol is not None else noise
        room = 8 * m**0.5 * 2.0**-52 * top
        self.unclear = bool(((S > cut - room - 0.2 * cut) & (S < 1.3 * cut + room)).any()) and top > 0
        self.cut, kept = cut, S[S > cut]
        self.rank = len(kept)
        self.kappa = top / kept[-1] if self.rank else 1.0
        below = S[S <= cut].max(initial=0.0)
        gap = (kept[-1] - below) / kept[-1] if self.rank else 1.0
        power = float(self.s)
        self.cond = (
            self.kappa ** (1 - min(power, 1.0)) * max(abs(power), 1) if power >= 0 else self.kappa * max(1, -power)
        )
        if self.rank < n:
            self.cond = max(self.cond, self.kappa ** max(1 - power, 0) / gap)
        self.full = self.rank == n
        self.X = self.known.function(odd(self.s, cut))
        self.unit = unit


def judge_common(found: Found, dtype: str, options: dict[str, Any], out: dict[str, np.ndarray], x: str) -> list[Fault]:
    X, status = out[x], int(out["status"])
    faults: list[Fault] = []
    if X.dtype.newbyteorder("=") != numpy_dtype(dtype) or X.shape != found.known.A.shape:
        faults.append(("kind", f"{X.dtype}{X.shape}"))
    if status > Status.STAGNATED and np.isfinite(draws.wide(X)).any():
        faults.append(("left over", f"{Status(status).name} without NaN"))
    if options["method"] != "products" and not found.unclear and status in (0, 1) and out["rank"] != found.rank:
        faults.append(("rank", f"told {out['rank']} is {found.rank}"))
    if options["method"] == "products" and not found.full:
        return faults
    if status in (0, 1) and not found.unclear:
        X = in_units(X, found.known.exponent, found.s)
        size = np.linalg.norm(found.X, 2)
        gone = lost(dtype, found.known.exponent, found.s) * X.size
        error = np.linalg.norm(X - found.X, 2) / size if size else float(np.linalg.norm(X))
        n = min(X.shape)
        bar = max(3, n**0.5) * found.unit * found.cond + 12 * n * found.unit
        if found.s == 0 and found.unit > 2.0**-53:
            bar = max(bar, 32 * found.unit * found.kappa)
        if options["method"] == "products":
            bar += 2.0**-53 * (1 + abs(float(found.s))) * found.kappa ** max(0.0, 2 - max(float(found.s), 0.0))
        if status == 1:
            bar = max(bar, 0.3) if found.full or found.s > 0 else bar
        if not error <= FACTOR * bar + (gone / size if size else gone):
            faults.append((f"wrong {Status(status).name}", f"error {error:.1e} bar {bar:.1e} kappa {found.kappa:.1e}"))
    if easy(found, dtype) and options["method"] != "products" and status != 0:
        faults.append(("false alarm", f"{Status(status).name} kappa {found.kappa:.1e} cond {found.cond:.1e}"))
    return faults


def easy(found: Found, dtype: str) -> bool:
    if found.unclear or not (found.full or found.s > 0) or found.rank == 0:
        return False
    info = np.finfo(np.float32 if dtype == "bfloat16" else numpy_dtype(dtype))
    digits = float(found.s * found.known.exponent)
    low, high = np.log2(float(info.tiny)) + 12, np.log2(float(info.max)) - 12
    size = np.log2(np.linalg.norm(found.X, 2)) + digits
    return (
        bool(low < size < high and low < found.known.exponent)  # H has the size of A
        and 100 * found.kappa ** max(1, 2 * -float(found.s)) * found.unit * max(found.X.shape) < 0.01
    )


def judge_polar(
    dtype: str, options: dict[str, Any], member: tuple[np.ndarray, ...], out: dict[str, np.ndarray]
) -> list[Fault]:
    A = member[0]
    if not np.isfinite(draws.wide(A)).all():
        return [] if out["status"] == Status.NONFINITE_INPUT else [("missed", "not finite")]
    found = Found(A, 0, dtype, options.get("rtol"), options["method"])
    faults = judge_common(found, dtype, options, out, "u")
    if out["status"] > Status.STAGNATED:
        return faults
    H, U = out["h"], draws.wide(out["u"])
    if not np.array_equal(draws.wide(H), draws.wide(H).conj().T):
        faults.append(("not Hermitian", ""))
    H, A = in_units(H, found.known.exponent, 1), found.known.unit
    size = np.linalg.norm(A) or 1.0
    residual = float(np.linalg.norm(U @ H - A) / size)
    tall = U if len(A) >= A.shape[1] else U.conj().T
    G = tall.conj().T @ tall
    n, rank = G.shape[0], int(out["rank"])
    off = np.linalg.norm(G - np.eye(n)) / n**0.5 if rank == n else np.linalg.norm(G - G @ G) / max(rank, 1) ** 0.5
    for name, true in (("residual", residual), ("orthogonality", off)):
        told = float(out[name])
        if not (true / FACTOR - 1e-14 <= told <= FACTOR * true + 1e-14):
            faults.append((name, f"told {told:.1e} true {true:.1e}"))
    return faults


def judge_power(
    s: Any, dtype: str, options: dict[str, Any], member: tuple[np.ndarray, ...], out: dict[str, np.ndarray]
) -> list[Fault]:
    A = member[0]
    if not np.isfinite(draws.wide(A)).all():
        return [] if out["status"] == Status.NONFINITE_INPUT else [("missed", "not finite")]
    found = Found(A, s, dtype, options.get("rtol"), options["method"])
    faults = judge_common(found, dtype, options, out, "x")
    if out["status"] <= Status.STAGNATED and found.known.small and not found.unclear:
        true, told = residual(found, in_units(out["x"], found.known.exponent, found.s)), float(out["residual"])
        a, b = abs(found.s.numerator), found.s.denominator
        noise = 2.0**-53 * 16 * (a + b) * found.kappa ** (max(1.0, 2 * a / b) if found.s < 0 else 0.0)
        if not (true > 1 and told > 1) and not true / FACTOR - noise <= told <= FACTOR * true + noise:
            faults.append(("residual", f"told {told:.1e} true {true:.1e} noise {noise:.0e} kappa {found.kappa:.1e}"))
    return faults


def residual(found: Found, X: np.ndarray) -> float:
    """That of `SpectralResult`, exactly."""
    A = found.known.unit
    A, X = (A, X) if len(A) >= A.shape[1] else (A.conj().T, X.conj().T)
    (A, Ah), (X, Xh) = ([Exact.of(real_form(np.ascontiguousarray(M))) for M in (Y, Y.conj().T)] for Y in (A, X))
    a, b, n = abs(found.s.numerator), found.s.denominator, min(found.known.A.shape)
    K, eye = Ah @ X, identity(len(Ah.m))
    uneven = ratio((K - Xh @ A).norm(), K.norm())
    if found.s > 0:
        goal = (Ah @ A).power(a)
        return max(uneven, ratio(((Xh @ X).power(b) - goal).norm(), goal.norm()))
    P, power, mixed, same = eye, 0, 2 * a, b - a  # in the order whose partial products stay nearest to I
    while mixed or same:
        if same and (not mixed or abs(power - 2 * a) < abs(power + b - a)):
            P, power, same = Xh @ X @ P, power - 2 * a, same - 1
        else:
            P, power, mixed = K @ P, power + b - a, mixed - 1
    real = len(eye.m) / n
    gap = P - eye if found.rank == n else P @ P - P
    return max(uneven, ratio(gap.norm(), ((max(found.rank, 1) * real) ** 0.5, 0)))
