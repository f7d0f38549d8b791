"""`solve_apply`, and the functions that raise, of dense arrays, sparse matrices, operators and functions."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

import mpmath
import numpy as np
import scipy.sparse
from scipy.sparse.linalg import LinearOperator
from table import EPS

from matroot import (
    ConditionWarning,
    Floor,
    Ridge,
    RootError,
    Status,
    apply_fractional_power,
    apply_inverse_pth_root,
    apply_pth_root,
    solve_apply,
)

from ..case import numpy_dtype
from ..eigen import PREC
from ..exact import Exact, real_form
from ..large import LAYOUTS
from . import draws
from .reference import FACTOR, Known, exponent_of, floats, lost, power, scaled
from .singular import others_of
from .trial import Fault, Trial


def product(a: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """v -> A v, without a word about NaN."""

    def times(v: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return a @ v

    return times


#: Ways to hand over a matrix that is no dense array.
WAYS: dict[str, Callable[[np.ndarray], Any]] = {
    "dense": lambda a: a,
    "csr": scipy.sparse.csr_array,
    "csc": scipy.sparse.csc_matrix,
    "coo": scipy.sparse.coo_array,
    "operator": lambda a: LinearOperator(a.shape, matvec=product(a), matmat=product(a), dtype=a.dtype),
    "function": lambda a: product(a),
}


def draw(rng: np.random.Generator) -> Trial:
    way = str(rng.choice([*WAYS], p=[0.5, 0.15, 0.08, 0.07, 0.1, 0.1]))
    dtype = draws.dtype_of(rng)
    if way != "dense" and dtype in ("float16", "bfloat16"):
        dtype = "float32"
    batch = draws.batch_of(rng) if way == "dense" else ()
    n = draws.shape_of(rng)[0]
    some = [draws.symmetric(rng, n, dtype) for _ in range(int(np.prod(batch)))]
    shape = (n,) if not batch and rng.random() < 0.4 else (n, int(rng.integers(0 if rng.random() < 0.1 else 1, 5)))
    members = [(A, right(rng, shape, A.dtype)) for A in some]
    s: Any = Fraction(int(rng.choice([-1, 1], p=[0.7, 0.3])), int(rng.integers(2, 9)))
    if rng.random() < 0.2:
        s = [Fraction(-1), 0.123456789, -float(np.pi / 4), Fraction(-2, 3), Fraction(3, 4)][rng.integers(5)]
    rtol = float(10 ** -rng.uniform(1, 13)) if rng.random() < 0.4 else None
    options: dict[str, Any] = {"regularization": rule(rng, way), "rtol": rtol}
    if way in ("csr", "csc", "coo"):
        options["method"] = str(rng.choice(["auto", "poles", "lanczos"]))
    raising = rng.random() < 0.25
    function = warned(raised(s)) if raising else (lambda a, b, **more: solve_apply(a, None, b, s=s, **more))
    if raising and way == "dense" and isinstance(s, Fraction) and s.numerator == -1 and rng.random() < 0.3:
        options["method"] = "minimax"
        options["regularization"] = None if isinstance(options["regularization"], Floor) else options["regularization"]
    return Trial(
        "apply" if raising else "solve_apply", members, batch, ((n, n), shape), numpy_dtype(dtype),
        lambda a, b: function(WAYS[way](a), b, **options),
        f"{way} {draws.text_of(s=s, **options)}",
        partial(judge, s, dtype, options, way),
        allowed=lambda error: isinstance(error, RootError),
        layouts=tuple(rng.choice([*LAYOUTS] if way in ("dense", "function") and len(shape) > 1 else ["C"], 2).tolist()),
        others=others_of(rng, "torch", "jax") if way == "dense" else (),
        poison=not raising,
    )  # fmt: skip


def raised(s: Any) -> Callable[..., Any]:
    """The function that raises for this exponent."""
    if isinstance(s, Fraction) and s.numerator == -1:
        return lambda a, b, **more: apply_inverse_pth_root(a, s.denominator, b, **more)
    if isinstance(s, Fraction) and s.numerator == 1:
        return lambda a, b, **more: apply_pth_root(a, s.denominator, b, **more)
    return lambda a, b, **more: apply_fractional_power(a, s, b, **more)


def warned(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose results are told apart by the warning."""

    def call(a: Any, b: Any, **options: Any) -> dict[str, Any]:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("error")
            warnings.simplefilter("always", ConditionWarning)
            x = function(a, b, **options)
        return {"x": x, "lost" if found else "kept": x}

    return call


def rule(rng: np.random.Generator, way: str) -> Any:
    if rng.random() < 0.6:
        return None
    size = float(10 ** rng.uniform(-10, -1))
    return (size, Ridge(relative=size), Floor(relative=size) if way == "dense" else Ridge(absolute=size))[
        rng.integers(3)
    ]


def right(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    b = rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if dtype.kind == "c" else 0)
    decades = draws.scale_of(rng, str(dtype)) * 0.9
    with np.errstate(all="ignore"):
        b = (b * 10 ** (decades / 2) * 10 ** (decades / 2)).astype(dtype)
    if b.size and rng.random() < 0.1:
        b[..., -1] = 0
    if b.size and rng.random() < 0.04:
        b.reshape(-1)[rng.integers(b.size)] = rng.choice([np.nan, np.inf])
    return b


def judge(
    s: Any, dtype: str, options: dict[str, Any], way: str, member: tuple[np.ndarray, ...], out: dict[str, np.ndarray]
) -> list[Fault]:
    A, b = member
    x = out["x"]
    faults: list[Fault] = []
    if x.dtype.newbyteorder("=") != numpy_dtype(dtype) or x.shape != b.shape:
        faults.append(("kind", f"{x.dtype}{x.shape}"))
    columns = b.shape[1] if b.ndim == 2 else 1
    status = np.ravel(out.get("status", np.full(columns, int("lost" in out))))
    told = np.ravel(out.get("error", np.full(columns, np.inf)))
    known, unit = Known(A, symmetric=True), EPS[dtype]
    finite = np.isfinite(draws.wide(A)).all()
    if "status" not in out and not finite and b.size:
        return [*faults, ("missed", "not finite")]
    ridge = float(np.ldexp(float(out["ridge"]), -known.exponent)) if "ridge" in out and finite else 0.0
    after: list[float] = []
    if finite and A.size:
        rule = options["regularization"]
        w = known.values
        if "ridge" not in out and rule is not None:
            return faults
        if isinstance(rule, Floor) and w[-1] <= 40 * len(A) * 2.0**-53 * abs(w).max():
            return faults  # the floor of a negative matrix is that of a rounding error
        after = list(np.maximum(w, rule.relative * w[-1]) if isinstance(rule, Floor) else w + ridge)
    X, B = x.reshape(len(A), -1), b.reshape(len(A), -1)
    for j in range(columns):
        if status[j] > Status.STAGNATED:
            if np.isfinite(draws.wide(X[:, j])).any():
                faults.append(("left over", f"[{j}]"))
            if (
                way == "dense"
                and finite
                and np.isfinite(draws.wide(B[:, j])).all()
                and min(after) > 100 * len(A) * unit * max(after)
            ):
                sizes = [
                    float(s) * known.exponent + np.log2(v) * float(s) + exponent_of(B[:, j])
                    for v in (min(after), max(after))
                ]
                info = np.finfo(np.float32 if dtype == "bfloat16" else numpy_dtype(dtype))
                if max(sizes) < np.log2(float(info.max)) - 8 and status[j] != Status.NONFINITE_INPUT:
                    faults.append(
                        ("false alarm", f"[{j}] {Status(int(status[j])).name} {min(after):.1e} {max(after):.1e}")
                    )
            continue
        if not finite or not np.isfinite(draws.wide(B[:, j])).all():
            faults.append(("missed", f"[{j}] not finite"))
            continue
        size = abs(np.array(after)).max()
        noise = 40 * len(A) * max(unit, 2.0**-53) * size
        if min(after) < -noise and B[:, j].any():
            faults.append(("missed", f"[{j}] indefinite {min(after):.1e} of {size:.1e}"))
            continue
        if min(after) < (noise if s < 0 else 0):
            continue
        faults += judge_column(
            s, dtype, options, way, known, ridge, after, X[:, j], B[:, j], int(status[j]), float(told[j]), j
        )
    return faults


def judge_column(
    s: Any,
    dtype: str,
    options: dict[str, Any],
    way: str,
    known: Known,
    ridge: float,
    after: list[float],
    x: np.ndarray,
    b: np.ndarray,
    status: int,
    told: float,
    j: int,
) -> list[Fault]:
    eb = exponent_of(b)
    b = scaled(b, -eb)
    rule = options["regularization"]
    n = len(b)

    def f(v: Any) -> Any:
        if isinstance(rule, Floor):
            return power(max(v, rule.relative * max(after)), s)
        return power(v + ridge, s)

    blur = 0.0
    if known.small:
        with mpmath.workprec(PREC):
            Y = known.exact.matrix([f(v) for v in known.exact.w])
        column = real_form(b[:, None])[:, :1] if b.dtype.kind != "c" else np.concatenate([b.real, b.imag])[:, None]
        y = floats(Y @ Exact.of(column))[:, 0]
        y = y[:n] + 1j * y[n:] if b.dtype.kind == "c" else y
        if isinstance(rule, Floor):
            blur = 1e-14 * max(abs(float(f(v))) for v in known.exact.w) * np.linalg.norm(b)
    else:
        Y = known.by_lapack(f)
        y = Y @ b
        blur = (
            1e-15
            * n
            * np.linalg.norm(Y, 2)
            * np.linalg.norm(b)
            * max(max(after) / max(min(after), 1e-16 * max(after), 1e-300), 1) ** min(1.0, 1 - float(s))
        )
    with np.errstate(all="ignore"):
        moved = Fraction(s) * known.exponent + eb
        whole = round(moved)
        x = scaled(x, -whole) * 2.0 ** float(whole - moved)
    size, error = np.linalg.norm(y), np.linalg.norm(x - y)
    gone = lost(dtype, 1, moved) * n + blur
    if not size:
        return [("not zero", f"[{j}]")] if error else []
    faults: list[Fault] = []
    unit = EPS[dtype]
    kappa = max(after) / min(after) if min(after) > 0 else np.inf
    if not error <= FACTOR * told * size + gone:
        faults.append(
            ("error", f"[{j}] told {told:.1e} true {error / size:.1e} kappa {kappa:.1e} {Status(status).name}")
        )
    bar = max(options["rtol"] or 1e-2, unit)
    if options.get("method") == "minimax":
        bar = 1e-2  # it has no certificate
    if status == 0 and not error <= FACTOR * bar * size + gone:
        faults.append(("wrong CONVERGED", f"[{j}] error {error / size:.1e} bar {bar:.1e} kappa {kappa:.1e}"))
    return faults
