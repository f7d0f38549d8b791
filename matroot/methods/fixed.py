"""Minimax on the GPU: one schedule for the whole stack, in arrays that are allocated once."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from matroot.engines import stacks
from matroot.methods.base import Array, Problem, Raw
from matroot.methods.minimax import Minimax, factors, into_polynomial, largest_between, spectrum, target_error, verdict
from matroot.schedules import Coefficients, Schedule, schedule


def run(method: Minimax, A: Array, problem: Problem, engine: Any) -> Raw:
    """A^{-a/p} as `Minimax.apply` gives it, but planned once: nothing is known that could tell matrices apart.

    A is overwritten.
    """
    xp = engine.xp
    B = len(A)
    p, a = problem.p, -problem.rational.numerator
    lower, _ = spectrum(A, None, None, problem, engine)
    eps = float(np.finfo(A.dtype).eps)
    plan = schedule(p, float(lower[0]), target=target_error(problem, eps), a=a, accurate=method.accurate)
    steps = plan.steps[: problem.max_iter]
    A2 = engine.matmul(A, A)
    top, _ = largest_between(A, A2, xp)
    A /= top.astype(A.real.dtype)[:, None, None]
    A2 /= (top * top).astype(A.real.dtype)[:, None, None]
    X, M = engine.replayed((plan, len(steps)), partial(coupled, plan, steps, engine), (A, A2))
    status = verdict(M, plan, len(steps), xp).astype(xp.int8)
    X *= (top ** (-a / p)).astype(X.real.dtype)[:, None, None]
    return Raw(X, status, xp.full(B, len(steps)), plan.products)


def coupled(
    plan: Schedule, steps: tuple[Coefficients, ...], engine: Any, M: Array, S: Array, T: Array, P: Array, X: Array
) -> tuple[Array, Array]:
    """M^(-a/p) by the polynomials `steps`, and M before the last of them; S is M^2, and all five are overwritten.

    The products are those of `matroot.methods.minimax.coupled`. Nothing is allocated.
    """
    empty = True
    for i, c in enumerate(steps):
        if i and len(c) > 2:
            engine.matmul(M, M, out=S)
        polynomial(c, M, S, T, P, engine)
        last = i == len(steps) - 1
        for j, (to_X, left, right) in enumerate(factors(plan.a, 0 if last else plan.p)):
            if j:
                engine.matmul(P, P, out=S)
                P, S = S, P
            if to_X and empty:
                engine.xp.copyto(X, P)
                empty = False
            elif to_X:
                engine.matmul(X, P, out=T)
                X, T = T, X
            for _ in range(left):
                engine.matmul(P, M, out=S)
                M, S = S, M
            for _ in range(right):
                engine.matmul(M, P, out=S)
                M, S = S, M
    return X, M


def polynomial(c: Coefficients, M: Array, S: Array, T: Array, P: Array, engine: Any) -> None:
    """P = q(M), S = M^2, by one launch for each sum; T is overwritten."""
    if not engine.limits.kernels or M.dtype.kind != "f":
        into_polynomial(c, M, S, T, P, engine)
    elif len(c) == 5:
        stacks.combine(c[4], S, c[3], M, c[2], T, engine)
        engine.matmul(S, T, out=P)
        stacks.combine(1.0, P, c[1], M, c[0], P, engine)
    elif len(c) == 3:
        stacks.combine(c[2], S, c[1], M, c[0], P, engine)
    else:  # S is no square here
        stacks.combine(0.0, M, c[1], M, c[0], P, engine)
