"""`stochastic_root`, and `RootTracker` with `ConditionTracker` beside it."""

from __future__ import annotations

import copy
import pickle
import warnings
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
from table import EPS

from matroot import ConditionTracker, Floor, PseudoInverse, Ridge, RootTracker, Shift, Status, gallery, stochastic_root

from ..case import DECADES, numpy_dtype
from ..large import LAYOUTS
from . import draws
from .reference import FACTOR, Known, in_units
from .singular import others_of
from .trial import Fault, Trial

DEGREES = (1, 2, 3, 4, 5, 12, 52, 365)


def draw(rng: np.random.Generator) -> Any:
    return draw_stochastic(rng) if rng.random() < 0.5 else draw_stream(rng)


def draw_stochastic(rng: np.random.Generator) -> Trial:
    dtype = str(rng.choice(["float64", "float32", "float16", "bfloat16"], p=[0.6, 0.2, 0.1, 0.1]))
    n, batch, p = int(rng.integers(1, 9)), draws.batch_of(rng), int(rng.choice(DEGREES))
    some = [transitions(rng, n).astype(numpy_dtype(dtype)) for _ in range(int(np.prod(batch)))]
    for one in some:
        if rng.random() < 0.03:
            one[rng.integers(n), rng.integers(n)] = np.nan
    return Trial(
        "stochastic_root", [(P,) for P in some], batch, ((n, n),), numpy_dtype(dtype),
        lambda a: stochastic_root(a, p), f"p={p}", partial(judge_stochastic, p, EPS[dtype]),
        layouts=(str(rng.choice([*LAYOUTS])),), others=others_of(rng, "torch", "jax"),
    )  # fmt: skip


def transitions(rng: np.random.Generator, n: int) -> np.ndarray:
    kind = rng.integers(8)
    if kind == 0:
        return gallery.embeddable_transitions(n, rng=rng)[0]
    if kind == 1:
        return np.eye(n)[rng.permutation(n)]
    P = rng.dirichlet(np.full(n, 10 ** rng.uniform(-2, 1)), n)
    if kind == 2:
        P = np.tril(P) + np.diag(rng.uniform(0, 1, n))
    elif kind == 3:
        P = P * (rng.random((n, n)) < 0.5) + np.eye(n) * rng.uniform(0, 3)
    elif kind == 4:
        P = P[rng.integers(0, n, n)]  # equal rows
    elif kind == 5:
        P = np.eye(n) + 10 ** -rng.uniform(1, 17) * P
    elif kind == 6:
        P = np.round(P + np.eye(n), 4)
    P = P + np.eye(n) * ~P.any(-1, keepdims=True)
    P[~np.isfinite(P).all(-1)] = 1.0
    return P / P.sum(-1, keepdims=True)


def judge_stochastic(p: int, unit: float, member: tuple[np.ndarray, ...], out: dict[str, np.ndarray]) -> list[Fault]:
    P, X, status = draws.wide(member[0]), draws.wide(out["x"]), int(out["status"])
    if not np.isfinite(P).all():
        fine = status == Status.NONFINITE_INPUT and np.isnan(X).all()
        return [] if fine else [("missed", "not finite")]
    n, faults = len(P), []
    if status not in (Status.CONVERGED, Status.MAX_ITER):
        return [("status", Status(status).name)]
    if not (X >= 0).all() or abs(X.sum(-1) - 1).max() > 4 * n * unit:
        faults.append(("not stochastic", f"{X.min():.1e} {abs(X.sum(-1) - 1).max():.1e}"))
    true, told = distance(X, P, p), float(out["distance"])
    if not abs(true - told) <= 1e-9 * true + 1e-14 * p * n:
        faults.append(("distance", f"told {told:.3e} true {true:.3e}"))
    if out["principal"]:
        if not true <= FACTOR * p * n * (unit + 1000 * n * 2.0**-53):  # entries that little below 0 become 0
            faults.append(("wrong principal", f"distance {true:.1e}"))
    else:
        if out["least"] >= 0:
            faults.append(("principal missed", f"least {out['least']:.1e}"))
        near = [np.eye(n)] + ([P] if p == 1 else [])
        best = min(distance(Y, P, p) for Y in near)
        if true > 1.01 * best + 10 * p * n * unit:
            faults.append(("not nearest", f"distance {true:.3e}, another has {best:.3e}"))
    return faults


def distance(X: np.ndarray, P: np.ndarray, p: int) -> float:
    return float(np.linalg.norm(np.linalg.matrix_power(X, p) - P))


@dataclass
class Stream:
    """Matrices that change, and a tracker that follows them."""

    tracker: RootTracker
    matrices: list[np.ndarray]
    copied: str
    rule: Any
    name: str = "RootTracker"

    def __str__(self) -> str:
        t, a = self.tracker, self.matrices[0]
        options = draws.text_of(rtol=t.rtol, rule=self.rule, compute_dtype=t.compute_dtype, warm_from=t.warm_from)
        return f"RootTracker {a.dtype}{[*a.shape]} s={t.exponent} {options} refine={t.refine} {self.copied}"

    def faults(self) -> list[Fault]:
        try:
            return self.followed()
        except Exception as error:
            return [("exception", f"{type(error).__name__}: {error}")]

    def followed(self) -> list[Fault]:
        found: list[Fault] = []
        conditions = ConditionTracker(max_records=2)
        twin = copy.deepcopy(self.tracker)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for step, A in enumerate(self.matrices):
                before = A.tobytes()
                result = self.tracker.update(A)
                if A.tobytes() != before:
                    found.append(("input written", ""))
                found += self.judged(step, A, result)
                twin = self.copy_of(twin)
                other = twin.update(A)
                for name in ("x", "status", "cond", "lambda_max"):
                    if not np.array_equal(
                        draws.wide(getattr(result, name)), draws.wide(getattr(other, name)), equal_nan=True
                    ):
                        found.append(("differs after " + self.copied, f"step {step} {name}"))
                conditions.record("one", result)
                conditions.summary(), conditions.to_dict(), str(result), result.message, self.tracker.summary()
                self.tracker.orthogonality()
        return found

    def details(self) -> str:
        return "\n".join(map(repr, self.matrices))

    def copy_of(self, tracker: RootTracker) -> RootTracker:
        if self.copied == "pickle":
            return pickle.loads(pickle.dumps(tracker))
        if self.copied == "deepcopy":
            return copy.deepcopy(tracker)
        fresh = copy.deepcopy(tracker)
        fresh.reset()
        fresh.load_state_dict(tracker.state_dict())
        return fresh

    def judged(self, step: int, stack: np.ndarray, result: Any) -> list[Fault]:
        found: list[Fault] = []
        n, s, t = stack.shape[-1], self.tracker.exponent, self.tracker
        if result.x.dtype != stack.dtype or result.x.shape != stack.shape:
            found.append(("kind", f"{result.x.dtype}{result.x.shape}"))
        rows = zip(
            stack.reshape(-1, n, n),
            result.x.reshape(-1, n, n),
            np.ravel(result.status),
            np.ravel(result.ridge),
            np.ravel(t.error),
            np.ravel(t.way),
            strict=True,
        )
        for i, (A, x, status, ridge, told, way) in enumerate(rows):
            at, unit = f"step {step} [{i}] {way}", EPS[str(stack.dtype)]
            finite = np.isfinite(draws.wide(A)).all()
            if not finite:
                found += [] if status == Status.NONFINITE_INPUT else [("missed", f"{at} not finite")]
                continue
            if status > Status.STAGNATED or isinstance(self.rule, PseudoInverse):
                continue
            known = Known(A, symmetric=True)
            w = np.linalg.eigvalsh(known.unit)
            shift = float(np.ldexp(float(ridge), -known.exponent))
            floor = self.rule.relative * w[-1] if isinstance(self.rule, Floor) else 0.0
            after = np.maximum(w + shift, floor)
            if after[0] <= 1e-13 * after[-1]:
                if (
                    after[0] < -1e-13 * n * after[-1]
                    and status == 0
                    and (s < 0 or after[0] < -n * unit * after[-1] * 4)
                ):
                    found.append(("missed", f"{at} indefinite {after[0]:.1e} {after[-1]:.1e}"))
                continue
            X = known.by_lapack(lambda v, shift=shift, floor=floor: max(v + shift, floor) ** float(s))
            x = in_units(x, known.exponent, s)
            error = float(np.linalg.norm(x - X, 2) / np.linalg.norm(X, 2))
            kappa = after[-1] / after[0]
            slack = 20 * n**0.5 * 2.0**-53 * kappa ** (1.0 if s < 0 else 1 - float(s)) + 2 * n * unit
            if not error <= FACTOR * told + slack:
                found.append(("error", f"{at} told {told:.1e} true {error:.1e} kappa {kappa:.1e}"))
            if status == 0 and not error <= FACTOR * t.rtol + slack:
                found.append(("wrong CONVERGED", f"{at} error {error:.1e} kappa {kappa:.1e}"))
        return found


def draw_stream(rng: np.random.Generator) -> Stream:
    dtype = draws.dtype_of(rng)
    n, batch = int(rng.choice([1, 2, 3, 6, 17, 33])), ((), (), (2,), (3,), (0,))[rng.integers(5)]
    size = float(10 ** rng.uniform(-8, -1))
    rule = [
        None,
        None,
        Ridge(relative=size),
        size,
        Shift(relative=size),
        Floor(relative=size),
        PseudoInverse(rtol=size),
    ][rng.integers(7)]
    tracker = RootTracker(
        [1, 2, 3, 4, 8, Fraction(4, 3)][rng.integers(6)], inverse=bool(rng.random() < 0.75),
        rtol=float(10 ** -rng.uniform(1, 9)), regularization=rule, refine=bool(rng.random() < 0.3),
        compute_dtype="float32" if rng.random() < 0.15 else None, warm_from=2 if rng.random() < 0.8 else 128,
    )  # fmt: skip
    B = int(np.prod(batch))
    stacks = [np.array([finite(rng, n, dtype) for _ in range(B)]).reshape(B, n, n).astype(numpy_dtype(dtype))]
    for _ in range(int(rng.integers(2, 7))):
        stacks.append(np.array([moved(rng, A, dtype) for A in stacks[-1]]).reshape(B, n, n).astype(numpy_dtype(dtype)))
    layout = LAYOUTS[str(rng.choice([name for name in LAYOUTS if name != "other bytes"]))]
    copied = str(rng.choice(["pickle", "deepcopy", "state_dict"]))
    return Stream(tracker, [layout(one.reshape(*batch, n, n)) for one in stacks], copied, rule)


def finite(rng: np.random.Generator, n: int, dtype: str) -> np.ndarray:
    while True:
        A = draws.symmetric(rng, n, dtype, indefinite=0.03)
        if np.isfinite(draws.wide(A)).all():
            return A


def moved(rng: np.random.Generator, A: np.ndarray, dtype: str) -> np.ndarray:
    """The next matrix: a little different, scaled, replaced, NaN, or the same."""
    kind, n, wide = rng.random(), len(A), draws.wide(A)
    if not np.isfinite(wide).all() or kind < 0.06:
        return finite(rng, n, dtype)
    with np.errstate(all="ignore"):
        if kind < 0.1:
            return (wide * np.nan).astype(A.dtype)
        if kind < 0.2:
            B = (
                wide
                * 10 ** rng.uniform(-0.5, 0.5) ** 3
                * (10 ** rng.uniform(-0.4, 0.4) * DECADES[dtype] if rng.random() < 0.2 else 1)
            )
            return B.astype(A.dtype) if np.isfinite(B.astype(A.dtype).astype(wide.dtype)).all() else A
        if kind < 0.3:
            return A
        g = rng.standard_normal((n, int(rng.integers(1, n + 1))))
        G = g @ g.T / n * abs(wide).max() * 10 ** -rng.uniform(0, 8)
        B = (wide * (1 - 10 ** -rng.uniform(1, 5)) + G).astype(A.dtype)
    return B if np.isfinite(draws.wide(B)).all() else A
