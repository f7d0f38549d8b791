"""The one table of methods, and the bars they are held to; every test of accuracy is driven by it."""

from dataclasses import dataclass
from fractions import Fraction

import mpmath
import numpy as np

from matroot import (
    CoupledNewton,
    Eigen,
    Floor,
    HigherOrder,
    Minimax,
    NewtonDB,
    PseudoInverse,
    SchurNewton,
    gallery,
)
from matroot.methods.base import Method
from matroot.methods.tridiagonal import Tridiagonal

#: Unit roundoff by dtype name.
EPS = {
    "float16": 2.0**-11,
    "bfloat16": 2.0**-8,
    "float32": 2.0**-24,
    "complex64": 2.0**-24,
    "float64": 2.0**-53,
    "complex128": 2.0**-53,
}
CONDS = {
    "float32": (1e1, 1e3, 1e6),
    "complex64": (1e1, 1e3, 1e6),
    "float64": (1e1, 1e3, 1e6, 1e9, 1e12),
    "complex128": (1e1, 1e6, 1e12),
}
SPECTRA = ("geometric", "two_cluster", "power_law")
SIZES = (1, 2, 31, 128)
BATCHES = {1: (3,), 2: (), 31: (2, 2), 128: ()}
EXPONENTS = tuple(Fraction(*f) for f in ((-3, 4), (-5, 2), (-2, 1), (-2, 3), (1, 3), (3, 4), (5, 2), (2, 1)))


@dataclass(frozen=True)
class Row:
    """A method, and what it claims."""

    method: Method
    degrees: tuple[int, ...] = tuple(range(1, 9))
    iterates: bool = True
    #: Backward error of what it starts from, in units of the bar: LAPACK's Schur form is not refined as eigenpairs are.
    slack: float = 1.0
    #: Multiple of n eps that the last products may add to the bar.
    floor: float = 4.0
    #: Residual in units of p eps cond: full equioscillation takes large eigenvalues through the level of the smallest.
    residual: float = 1.0
    #: Whether it computes in float32 when asked to.
    single: bool = True
    exponents: tuple[Fraction, ...] = EXPONENTS

    def bar(self, cond, s, n, eps):
        return self.slack * forward_bar(cond, s, n, eps, self.floor)

    def arithmetic(self, dtype):
        """The precision to ask for: `dtype`, where the method has a choice."""
        return dtype if self.single else None

    def __str__(self):
        return repr(self.method).split("  #")[0]


METHODS = [
    Row(Eigen(), iterates=False),
    Row(Eigen(refine=False), iterates=False, slack=8),
    Row(CoupledNewton(), residual=3),
    # X T and the order - 2 products of T round alike: no rounding commutes with A, so each costs eps cond, and they add
    # as squares.
    Row(HigherOrder(order=3), residual=2**0.5),
    Row(HigherOrder(order=5), residual=2.0),
    Row(NewtonDB(), degrees=(2, 4, 8), exponents=(Fraction(1, 2), Fraction(1, 4), Fraction(1, 8))),
    Row(Minimax(), floor=12, residual=30),
    Row(Minimax(accurate=True), floor=12, residual=10),
    Row(SchurNewton(), iterates=False, slack=2),
    # p = 1 inverse is among its exponents; A^1 it leaves to others.
    *(
        Row(
            Tridiagonal(lanes=lanes),
            degrees=tuple(range(2, 9)),
            iterates=False,
            slack=2,
            residual=2,
            single=False,
            exponents=(Fraction(-1), *(s for s in EXPONENTS if -1 <= s < 1)),
        )
        for lanes in (True, False)
    ),
]
ITERATIONS = [row for row in METHODS if row.iterates]
#: One row a method, for tests of everything but accuracy.
NAMED = {row.method.name: row for row in reversed(METHODS)}


def conjugate(X):
    return X.conj().swapaxes(-1, -2)


def distance(X, Y):
    """||X - Y||_2 / ||Y||_2, the largest over a stack."""
    X, Y = np.asarray(X), np.asarray(Y)
    if Y.size == 0:
        return 0.0
    gap = np.linalg.norm(X.astype(np.result_type(X.dtype, np.float64)) - Y, 2, axis=(-2, -1)) / np.linalg.norm(
        Y, 2, axis=(-2, -1)
    )
    return float(np.max(gap))


def conditioning(cond, s):
    """The relative condition number of A -> A^s, or a little more.

    For positive s an eigenvalue lambda moves by eps, so its root by s lambda^(s - 1) eps.
    """
    s = float(s)
    return -s * cond if s < 0 else max(s, 1.0) * max(1.0, cond ** (1 - s))


def forward_bar(cond, s, n, eps, floor=4.0):
    """max(3, 0.6 sqrt(n)) eps times the condition number of A -> A^s, plus a few n eps.

    A product itself rounds like sqrt(n) eps: up to n = 31 the factor is 3.
    """
    return max(3.0, 0.6 * n**0.5) * conditioning(cond, s) * eps + floor * n * eps


def problem(n, cond, spectrum="geometric", batch=(), dtype="float64", seed=0, scale=1.0):
    """A in `dtype`, and root(s) of that very A up to eps64 cond |s|."""
    wide = "complex128" if np.dtype(dtype).kind == "c" else "float64"
    A, root = gallery.spd(n, cond, spectrum, batch=batch, dtype=wide, rng=seed)
    if np.dtype(dtype) == wide:
        return A * scale, lambda s: root(s) * scale ** float(s)
    A = (A * scale).astype(dtype)
    w, Q = np.linalg.eigh(A.astype(wide) / scale)
    return A, lambda s: (Q * w[..., None, :] ** float(s)) @ conjugate(Q) * scale ** float(s)


def true_residual(A, X, s):
    """||X^b A^a - I||_F / sqrt(n), or ||X^b - A^a||_F / ||A^a||_F, in extended precision."""
    wide = np.clongdouble if np.iscomplexobj(A) else np.longdouble
    A, X = A.astype(wide), X.astype(wide)
    a, b = abs(Fraction(s).numerator), Fraction(s).denominator
    n = A.shape[-1]
    P, R = np.eye(n, dtype=wide), np.eye(n, dtype=wide)
    for _ in range(a):
        P = P @ A
    for _ in range(b):
        R = R @ X
    if s < 0:
        return np.sqrt((abs(R @ P - np.eye(n)) ** 2).sum((-1, -2)) / n).astype(float)
    return np.sqrt((abs(R - P) ** 2).sum((-1, -2)) / (abs(P) ** 2).sum((-1, -2))).astype(float)


def mpmath_residual(A, X, s, regularization=None):
    """The residual of X = A'^s, as `RootResult` defines it, with 50 digits; real symmetric A."""
    with mpmath.workdps(50):
        w, Q = mpmath.eigsy(mpmath.matrix(A.astype(float).tolist()))
        X = mpmath.matrix(X.astype(float).tolist())
        w, top = list(w), max(w)
        if isinstance(regularization, Floor):
            w = [max(lam, mpmath.mpf(regularization.relative) * top) for lam in w]
        if isinstance(regularization, PseudoInverse):
            w = [lam if lam > len(A) * 2 * EPS[A.dtype.name] * top else 0 for lam in w]

        def power(t):
            return Q * mpmath.diag([mpmath.mpf(lam) ** t if lam else 0 for lam in w]) * Q.T

        def size(M):
            return mpmath.sqrt(sum(v * v for v in M))

        a, b = (s.numerator, s.denominator) if isinstance(s, Fraction) else (mpmath.mpf(s), 1)
        if isinstance(s, Fraction) and s.numerator == -1:
            kept = Q * mpmath.diag([1 if lam else 0 for lam in w]) * Q.T
            return float(size(X**b * power(1) - kept) / mpmath.sqrt(len(A)))
        return float(size(X**b - power(a)) / size(power(a)))
