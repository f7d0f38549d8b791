"""The method that "auto" takes, with the reason; the tuned numbers are in `matroot.backends.profile`."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from matroot._regularization import Regularization
from matroot.backends.base import Backend
from matroot.backends.loading import deferred
from matroot.backends.profile import limits
from matroot.methods.base import Method, Problem
from matroot.methods.eigen import REFINED, Eigen
from matroot.methods.tridiagonal import PRODUCTS, Tridiagonal, runs_here
from matroot.methods.tridiagonal_cut import LARGEST, cuts_in_lanes, serves_cuts
from matroot.methods.tridiagonal_report import further_products, lanes_are_faster

#: From this many matrices on, `Tridiagonal` fills half of its lanes or more.
TOGETHER = 4
#: The smallest n at which float64 is as fast for a cut, and an rtol, as a decomposition that may be in float32.
CUT_TO_RTOL = 160
#: So many products beside a reduction are as fast as a decomposition, and as one for an rtol, which may be in float32.
MOST_PRODUCTS, MOST_PRODUCTS_TO_RTOL = 5, 2
#: The smallest n at which a Cholesky factorization gives the inverse faster than a decomposition.
CHOLESKY_OVER_EIGEN = 192

#: The modules and classes of the methods, imported when a method is first used.
METHODS = {
    "eigen": ("matroot.methods.eigen", "Eigen"),
    "coupled_newton": ("matroot.methods.coupled_newton", "CoupledNewton"),
    "higher_order": ("matroot.methods.coupled_newton", "HigherOrder"),
    "minimax": ("matroot.methods.minimax", "Minimax"),
    "newton_db": ("matroot.methods.newton_db", "NewtonDB"),
    "schur_newton": ("matroot.methods.schur_newton", "SchurNewton"),
    "tridiagonal": ("matroot.methods.tridiagonal", "Tridiagonal"),
}


@dataclass(frozen=True)
class Case:
    """All that the choice of a method depends on.

    `batch` matrices of order `n`; `single` if float32 arithmetic was requested by name.
    """

    problem: Problem
    rule: Regularization | None
    n: int
    backend: Backend
    batch: int = 1
    is_complex: bool = False
    single: bool = False

    @property
    def cuts(self) -> bool:
        """True if the rule changes single eigenvalues."""
        return self.rule is not None and self.rule.changes_spectrum


def choose(method: str | Method, case: Case) -> Method:
    """Return the method to run: the requested one if it can do the problem, or the one that "auto" stands for.

    ValueError for an unknown name, or a method that cannot do the problem; the message says what can.
    """
    if isinstance(method, Method):
        chosen = method
    elif method == "auto":
        chosen = automatic(case)
    elif isinstance(method, str) and method in METHODS:
        chosen = named(method)
    else:
        found = repr(method)
        if isinstance(method, type) and issubclass(method, Method):
            found = f"the class {method.__name__}: write {method.__name__}()"
        raise ValueError(f"method must be one of {['auto', *METHODS]} or a method object, got {found}")
    backend, refusal = case.backend, chosen.refuses(case.problem, case.n)
    if refusal is None and case.cuts and not isinstance(chosen, Eigen | Tridiagonal):
        refusal = (
            f"{type(case.rule).__name__} changes single eigenvalues, which {chosen.name} has not; use 'eigen' or Ridge"
        )
    if case.single and isinstance(chosen, Tridiagonal):
        refusal = refusal or "tridiagonal computes in float64 only; leave compute_dtype out, or use another method"
    if backend.sync_free():
        refusal = _refused_on_device(chosen, case.problem) or refusal
    if backend.rounding and isinstance(chosen, Eigen):
        why = chosen.reason or "eigen decomposes"
        refusal = f"compute_dtype={backend.rounding!r} rounds products, and this takes a decomposition ({why})"
    if refusal is not None:
        raise ValueError(refusal)
    return chosen


def named(name: str, reason: str = "") -> Method:
    """Return the method of this name, with its default options."""
    module, kind = METHODS[name]
    return getattr(deferred(module), kind)(reason=reason)


def _refused_on_device(method: Method, problem: Problem) -> str | None:
    if problem.assume_a == "gen":
        return "assume_a='gen' needs a Schur decomposition, which cuSOLVER has not: pass a.get(), or a.cpu() for torch"
    if not method.on_device:
        return f"{method.name} runs on the CPU only: pass a.get(), or a.cpu() for torch, or use method='minimax'"
    return None


def automatic(case: Case) -> Method:
    """Return what "auto" takes, with its reason."""
    problem, rule, n, backend, batch = case.problem, case.rule, case.n, case.backend, case.batch
    if problem.assume_a == "gen":
        reason = "the one method for general matrices: the Schur form, then some triangular products"
        return named("schur_newton", reason)
    if backend.sync_free():
        if not isinstance(problem.s, Fraction):
            return named("eigen", f"exponent {problem.s!r} is not a ratio of small integers")
        if case.cuts:
            return named("eigen", f"{type(rule).__name__} changes single eigenvalues")
        most: int = backend.limits.eigen  # type: ignore[attr-defined]  # of a GPU
        if n <= most:
            return named("eigen", f"n = {n} on the GPU, up to {most}: batched Jacobi")
        return named("minimax", "products are what a GPU does fast, and its schedule needs no answer")
    tuned = limits()
    most = tuned.tridiagonal_batch if batch >= TOGETHER else tuned.tridiagonal_alone
    serves = 1 < n <= most and Tridiagonal().refuses(problem, n) is None and not case.single
    if serves and case.cuts:
        serves = _cuts_fast(case)
    serves = serves and _powers_fast(case)
    missed = serves and not runs_here()
    serves = serves and not missed
    # A reduction may be in single precision for spectra that need double precision for a factorization. Eight inverses
    # side by side are the faster ones for about twice as long as a lone one is.
    least = tuned.cholesky_from if serves else min(tuned.cholesky_from, CHOLESKY_OVER_EIGEN)
    if batch >= TOGETHER:
        least *= 2
    elif serves and problem.rtol is not None:
        least += least // 4
    if not case.cuts and problem.s == -1 and n >= least:
        reason = f"n = {n}, p = 1 on the CPU: the inverse from a Cholesky factorization, 1 product"
        return named("minimax", reason)
    if serves:
        lanes = batch >= TOGETHER and lanes_are_faster(batch, n, case.is_complex)
        together = "eight of them side by side" if lanes else "no eigenvectors needed"
        reason = f"{batch} of n = {n} on the CPU, up to {most}: {together}, {PRODUCTS} products"
        return named("tridiagonal", reason)
    products = "1 product"
    if not case.cuts and problem.rtol is None and 1 < n <= REFINED:
        products = "at most 5 products" if case.single else "5 products"
    why = f"{type(rule).__name__} changes single eigenvalues" if case.cuts else "exact, and certain for every spectrum"
    hint = "; no compiled kernels in this process, see `matroot warm-up`" if missed else ""
    return named("eigen", f"n = {n} on the CPU: {why}; a decomposition and {products}{hint}")


def _cuts_fast(case: Case) -> bool:
    """Return True if `Tridiagonal` is the faster one also for a matrix that is cut."""
    s, rtol = case.problem.s, case.problem.rtol
    n = 2 * case.n if case.is_complex else case.n
    if n <= LARGEST and lanes_are_faster(max(case.batch, 2), case.n, case.is_complex):  # LAPACK is quicker for one
        return cuts_in_lanes(s, n)
    return serves_cuts(s) and (rtol is None or n >= CUT_TO_RTOL)


def _powers_fast(case: Case) -> bool:
    """Return True if `Tridiagonal` is the faster one for a power s > 1, whose products LAPACK's way does one by one."""
    n, s = case.n, case.problem.rational
    if n <= LARGEST or lanes_are_faster(case.batch, n, case.is_complex):
        return True
    products = further_products(s) + (s.denominator > 1)  # for the way back, which whole powers have not
    return products <= (MOST_PRODUCTS if case.problem.rtol is None else MOST_PRODUCTS_TO_RTOL)


def names() -> list[str]:
    """All method names that `solve` takes, "auto" first."""
    return ["auto", *METHODS]
