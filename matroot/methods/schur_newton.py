"""Schur-Newton: principal powers of general matrices.

Guo & Higham, SIAM J. Matrix Anal. Appl. 28(3), 2006, 788-804, algorithm 3.3: Schur form, square roots of the
triangular factor until its spectrum is near 1, coupled Newton for the odd part q of p = 2^{k0} q, squarings
back. Three changes save products and digits:

- square roots and the degrees of the steps are chosen by cost (`schur_plan`);
- from R_k = R^{2^{-k}} the iteration computes R_k^{r/q} with r a power of two. P^r is an intermediate of P^q, and most
  squarings are saved;
- the diagonal blocks of the result are set to their exact powers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from matroot._status import Status
from matroot.backends.base import Backend
from matroot.backends.cpu import triangular as tri
from matroot.backends.cpu.lapack import schur_form
from matroot.backends.cpu.triangular_norms import extreme_singular_values, power_radius
from matroot.methods import schur_plan as plan
from matroot.methods.base import Method, Problem, Raw
from matroot.methods.schur_condition import Sensitivity, sensitivity
from matroot.methods.schur_singular import Deflated, deflated

Matrix = NDArray[Any]

#: Largest numerator and root degree of rational exponents; larger ones are treated as real exponents.
LARGEST_NUMERATOR, LARGEST_DEGREE = 64, 8192
#: Maximum number of square roots: R^{2^{-k}} is then I up to rounding in every dtype.
MAX_SQUARE_ROOTS = 60
#: Sensitivity of a matrix without the power.
UNKNOWN = Sensitivity(np.nan, np.nan)


@dataclass(frozen=True, repr=False)
class SchurNewton(Method):
    """Principal power of a general real or complex matrix, like SciPy's ``fractional_matrix_power``.

    Use it for matrices that are not symmetric, such as transition matrices. The root of a real matrix is real and
    computed in real arithmetic. The whole method costs about as much as the Schur form alone.
    """

    name: ClassVar[str] = "schur_newton"
    serves: ClassVar[frozenset[str]] = frozenset({"gen", "pos"})

    def run(self, A: Matrix, problem: Problem, backend: Backend) -> Raw:
        B = A.shape[0]
        x = np.empty_like(A)
        status, n_iter = np.empty(B, np.int8), np.zeros(B, np.int64)
        cond, amplification, jump, eigenvalue, norm = np.empty((5, B))
        rank = np.full(B, A.shape[-1])
        products = 0
        for i in range(B):
            one = schur_newton(
                A[i],
                problem.s,
                rtol=problem.rtol,
                max_iter=problem.max_iter,
                positive=problem.assume_a == "pos",
                out_eps=problem.out_eps,
            )
            x[i], status[i], n_iter[i], cond[i] = one.x, one.status, one.n_iter, one.cond
            amplification[i], jump[i] = one.sensitivity
            eigenvalue[i], norm[i] = one.eigenvalue, one.norm
            rank[i] = A.shape[-1] if one.rank is None else one.rank
            products = max(products, one.n_products)
        return Raw(
            x=x,
            status=status,
            n_iter=n_iter,
            n_products=products,
            cond=cond,
            lambda_max=norm if problem.assume_a == "gen" else None,
            lambda_min=eigenvalue,
            amplification=amplification,
            jump=jump,
            rank=rank,
        )


class Power(NamedTuple):
    """Result for one matrix: the power (NaN if it failed), its status, steps, products, cond of A, and of A -> A^s.

    `rank` is None if no eigenvalue was taken for 0. It is given beside NO_PRINCIPAL_ROOT where 0 has a Jordan block;
    `eigenvalue` is then the one on the closed negative real axis. `norm` is the 2-norm of A, as far as it is known.
    """

    x: Matrix
    status: Status
    n_iter: int
    n_products: int
    cond: float
    sensitivity: Sensitivity
    rank: int | None = None
    eigenvalue: float = math.nan
    norm: float = math.nan


def schur_newton(
    A: Matrix,
    s: Fraction | float,
    *,
    rtol: float | None = None,
    max_iter: int | None = None,
    positive: bool = False,
    out_eps: float = 0.0,
) -> Power:
    """Compute the principal power A^s of one matrix (n, n), finite and not near the ends of the exponent range.

    A Fraction with a small numerator is computed by coupled steps, at most `max_iter`; otherwise one power series is
    summed. `positive` if A should be positive definite: a negative eigenvalue is then an error for A^{-1}, too.
    `out_eps` is the unit roundoff of the data in A, if A holds the data in a wider precision.

    The status is ``NO_PRINCIPAL_ROOT`` if an eigenvalue is no further from the closed negative real axis than the
    rounding error of the Schur form. Semisimple eigenvalues 0 have the power 0 for s > 0. Triangular products and
    square roots count as products, though they cost a third of one or less.
    """
    n = A.shape[0]
    failed = np.full_like(A, np.nan, subok=False)
    if n == 0 or s == 0:
        return Power(np.eye(n, dtype=A.dtype), Status.CONVERGED, 0, 0, 1.0, Sensitivity(0.0, 0.0))
    form = schur_form(A)
    if form is None:
        return Power(failed, Status.DIVERGED, 0, 0, np.nan, UNKNOWN)
    R, Q = form
    blocks = tri.pairs(R)
    lam = tri.eigenvalues(R, blocks)
    largest, smallest = extreme_singular_values(R)
    cond = largest / smallest if smallest > 0 else np.inf
    exact = not np.tril(A, -1).any()
    eps = float(np.finfo(A.dtype).eps)
    data = max(eps / 2, out_eps)
    bad = on_the_axis(lam, -0.5 if positive and s < 0 else s, largest, smallest, exact)
    exists = math.isnan(bad)
    rounded = data > eps and not positive and smallest <= 2 * n * data * largest  # a small eigenvalue may be a 0
    if s > 0 and not float(s).is_integer() and (rounded or not exists):
        factors = deflated(A, data)
        if factors is not None and factors.semisimple:
            return singular_power(factors, s, rtol, max_iter, out_eps)._replace(norm=largest)
        if factors is not None and not exists:
            return Power(failed, Status.NO_PRINCIPAL_ROOT, 0, 0, cond, UNKNOWN, factors.rank, bad, largest)
    if not exists:
        return Power(failed, Status.NO_PRINCIPAL_ROOT, 0, 0, cond, UNKNOWN, eigenvalue=bad, norm=largest)

    sensitive = sensitivity(R, lam, s, largest, smallest, data)
    work = _Triangular(R, blocks, lam, plan.Accuracy(eps / 2 if rtol is None else rtol / 4, eps / 2))
    with np.errstate(all="ignore"):
        F, status, steps = work.power(s, max_iter)
        if status == Status.CONVERGED:
            x = tri.transform(Q, F, work.blocks)
            if not np.isfinite(x).all():
                status = Status.DIVERGED
    if status != Status.CONVERGED:
        return Power(failed, status, steps, work.products, cond, UNKNOWN, norm=largest)
    sensitive = sensitive.relative_to(float(np.linalg.norm(F)))
    return Power(x, status, steps, work.products + 2, cond, sensitive, norm=largest)


def singular_power(
    factors: Deflated, s: Fraction | float, rtol: float | None, max_iter: int | None, out_eps: float
) -> Power:
    """Compute the power of a singular matrix whose eigenvalue 0 is semisimple."""
    one = schur_newton(factors.M, s, rtol=rtol, max_iter=max_iter, out_eps=out_eps)
    n, cond = len(factors.B), float(factors.S[0] / factors.S[-1])
    if one.status != Status.CONVERGED or one.rank is not None:
        failed = np.full((n, n), np.nan, factors.M.dtype)
        status = one.status if one.rank is None else Status.NO_PRINCIPAL_ROOT
        return Power(failed, status, one.n_iter, one.n_products, cond, UNKNOWN, eigenvalue=one.eigenvalue)
    size = float(np.linalg.norm(one.x))
    x, sensitive = factors.lifted(one.x, float(s), Sensitivity(*(size * number for number in one.sensitivity)))
    relative = sensitive.relative_to(float(np.linalg.norm(x)))
    return Power(x, one.status, one.n_iter, one.n_products + 4, cond, relative, factors.rank)


def on_the_axis(lam: Matrix, s: Fraction | float, largest: float, smallest: float, exact: bool) -> float:
    """Return the first eigenvalue on the closed negative real axis, up to the Schur form's rounding; NaN without one.

    The backward error of the Schur form is a few eps ||A||_2. If the smallest singular value is at most this error, A
    may be singular although its computed eigenvalues are as large as eps^{1/m}, for a Jordan block of order m. A
    triangular matrix is its own Schur form, without error. Integer powers need no branch, only an inverse.
    """
    if exact:
        rounding, singular = 0.0, not lam.all()
    else:
        rounding = 4 * float(np.finfo(lam.dtype).eps) * largest
        singular = not smallest > rounding
    if float(s).is_integer():
        return 0.0 if singular and s <= 0 else np.nan
    negative = (lam.real <= 0) & (np.abs(lam.imag) <= np.sqrt(len(lam)) * rounding)
    if singular:
        negative &= lam.real < -np.sqrt(len(lam)) * rounding  # the others are 0
    return float(lam.real[negative].min(initial=0.0 if singular else np.inf)) if singular or negative.any() else np.nan


def has_principal_power(lam: Matrix, s: Fraction | float, largest: float, smallest: float, exact: bool) -> bool:
    """Return True if no eigenvalue is `on_the_axis`."""
    return math.isnan(on_the_axis(lam, s, largest, smallest, exact))


class _Triangular:
    """Powers of an upper (quasi-)triangular R with eigenvalues lam; R is overwritten by its square roots."""

    def __init__(self, R: Matrix, pairs: tri.Pairs, lam: Matrix, accuracy: plan.Accuracy) -> None:
        self.R, self.lam, self.accuracy = R, lam, accuracy
        self.blocks = tri.cuts(R)
        self.pairs = pairs
        self.products = 0

    def power(self, s: Fraction | float, max_iter: int | None) -> tuple[Matrix, Status, int]:
        """Compute R^s, and return it with status and steps."""
        a, b = (s.numerator, s.denominator) if isinstance(s, Fraction) else (0, 0)
        if abs(a) > LARGEST_NUMERATOR or b > LARGEST_DEGREE:
            a, b = 0, 0
        unit = float(s) if b == 0 else float(np.sign(a)) / b
        self.accuracy = self.accuracy._replace(power=self.accuracy.power / max(1, abs(a)))
        k = plan.square_roots(self.lam, unit, b, self.accuracy)
        for _ in range(k):
            self._sqrt()
        k, c, radius = self._more_roots(k, unit, b)
        e = plan.exponent(unit, b, k)
        F, status, steps = self._iterate(e, c, radius, max_iter)
        if status == Status.CONVERGED:
            for _ in range(e.squarings):
                self._multiply(F, F, out=F)
            if abs(a) > 1:
                F = self._integer_power(F, abs(a))
            tri.set_diagonal_blocks(F, self.pairs, self.lam, plan.principal_power(self.lam, float(s)))
        return F, status, steps

    def _more_roots(self, k: int, s: float, b: int) -> tuple[int, float, float]:
        """Take more square roots while this saves products: for a non-normal R eigenvalues underestimate the radius."""
        while True:
            e = plan.exponent(s, b, k)
            if e.q == 1:
                return k, 1.0, 0.0
            c, radius = plan.disc(tri.eigenvalues(self.R))
            radius = max(radius, power_radius(self.R, enough=1.1 * radius, c=c))
            here = plan.total(e, radius, self.accuracy.before(e))
            after = plan.exponent(s, b, k + 1)
            there = plan.SQRT_COST + plan.total(after, radius / 2, self.accuracy.before(after))
            if (np.isfinite(here) and here <= there) or k >= MAX_SQUARE_ROOTS or not np.isfinite(radius):
                return k, c, radius
            self._sqrt()
            k += 1

    def _iterate(self, e: plan.Exponent, c: float, radius: float, max_iter: int | None) -> tuple[Matrix, Status, int]:
        """Compute R^sigma by coupled steps on M = c R = I - Z; overwrites R."""
        Z = self.R
        if e.q == 1:  # sigma = 1 or -1
            eye = np.eye(len(Z), dtype=Z.dtype).T  # in Fortran's order
            return (Z if e.sigma > 0 else self._inverse_times(Z, eye)), Status.CONVERGED, 0
        Z *= -c
        _add_to_diagonal(Z, 1)
        G: Matrix | None = None  # M_0^{-r/q} M^{r/q}
        steps = 0
        while True:
            schedule = plan.cheapest(e, radius, self.accuracy.before(e))
            if schedule is None or not np.isfinite(radius):
                return Z, Status.DIVERGED, steps
            if max_iter is not None and steps >= max_iter:
                return Z, Status.MAX_ITER, steps
            steps += 1
            degree = schedule.degrees[0]
            if len(schedule.degrees) == 1:
                break
            G = self._step(Z, self._polynomial(Z, plan.binomial(-1 / e.q, degree)), G, e)
            radius = power_radius(Z, enough=plan.after(e, degree, radius))
        F = self._polynomial(Z, plan.binomial(e.sigma, degree))
        if G is not None:
            F = self._inverse_times(G, F) if e.sigma > 0 else self._multiply(G, F, out=F)
        F *= c**-e.sigma
        return F, Status.CONVERGED, steps

    def _step(self, Z: Matrix, T: Matrix, G: Matrix | None, e: plan.Exponent) -> Matrix:
        """Update M = I - Z <- T^q M in place, overwriting T by its powers, and return G T^r."""
        np.negative(Z, out=Z)
        _add_to_diagonal(Z, 1)
        power = 1
        while power <= e.q:
            if e.q & power:
                self._multiply(T, Z, out=Z)
            if power == e.r:
                G = T.copy(order="F") if G is None else self._multiply(G, T, out=G)
            power *= 2
            if power <= e.q:
                self._multiply(T, T, out=T)
        np.negative(Z, out=Z)
        _add_to_diagonal(Z, 1)
        assert G is not None  # since r is a power of two and at most q
        return G

    def _polynomial(self, Z: Matrix, c: list[float]) -> Matrix:
        """Evaluate sum c_i Z^i of degree 1 or even, by Horner's rule in Z^2."""
        if len(c) == 2:
            P = c[1] * Z
            _add_to_diagonal(P, c[0])
            return P
        Z2 = self._multiply(Z, Z)
        P = c[-1] * Z2
        for i in range(len(c) - 3, -1, -2):
            if i < len(c) - 3:
                self._multiply(P, Z2, out=P)
            tri.add_multiple(P, c[i + 1], Z, self.blocks)
            _add_to_diagonal(P, c[i])
        return P

    def _integer_power(self, F: Matrix, a: int) -> Matrix:
        result = F
        for bit in bin(a)[3:]:
            result = self._multiply(result, result)
            if bit == "1":
                self._multiply(result, F, out=result)
        return result

    def _sqrt(self) -> None:
        tri.sqrt_triangular(self.R, self.blocks)
        self.products += 1

    def _multiply(self, A: Matrix, B: Matrix, out: Matrix | None = None) -> Matrix:
        self.products += 1
        return tri.multiply(A, B, self.blocks, out=out)

    def _inverse_times(self, A: Matrix, B: Matrix) -> Matrix:
        self.products += 1
        tri.solve(A, B, self.blocks)
        return B


def _add_to_diagonal(A: Matrix, value: float) -> None:
    """Add value I to a Fortran-ordered A, of which `linalg.add_to_diagonal` would change a copy."""
    np.einsum("ii->i", A)[...] += value
