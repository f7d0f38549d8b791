"""Compute matroot/backends/cpu/tridiagonal/pole_table.npy, in some four minutes.

``python asv_benchmarks/pole_table.py`` needs mpmath and python-flint. For every class of condition numbers, the poles
for alpha = 1/2 are Zolotarev's; from there alpha goes down to 1/8 in small steps, and Newton's method keeps the error 0
at the zeros of Zolotarev's error. The unknowns are the logarithms of poles and weights; their equations are as
ill-conditioned as the sum is accurate.
"""

import math
from fractions import Fraction
from pathlib import Path

import mpmath
import numpy as np
from flint import arb, arb_mat, ctx

from matroot.backends.cpu.tridiagonal import pole_table

mpmath.mp.dps = 40
ctx.prec = 192
#: alpha changes by this at most.
STEP = 0.03


def number(x):
    return arb(mpmath.nstr(x, 40)).mid()


def zolotarev(kappa, K):
    """Logarithms of poles and weights for x^(-1/2) on [1 / kappa, 1], and of the zeros of the error."""
    m = 1 - 1 / mpmath.mpf(kappa)
    period = mpmath.ellipk(m)

    def at(name, share):
        return mpmath.ellipfun(name, share * period, m=m)

    shares = [(j + mpmath.mpf(1) / 2) / K for j in reversed(range(K))]
    poles = [2 * mpmath.log(at("sc", t)) - mpmath.log(kappa) for t in shares]
    scale = 2 * period / (mpmath.pi * K * mpmath.sqrt(kappa))
    weights = [mpmath.log(scale * at("dn", t) / at("cn", t) ** 2) for t in shares]
    zeros = [2 * mpmath.log(at("dn", (j + mpmath.mpf(1) / 2) / (2 * K))) for j in range(2 * K)]
    return ([number(x) for x in values] for values in (poles, weights, zeros))


def newton(zeros, poles, weights, alpha):
    """One step towards an error of 0 at the zeros."""
    b, w = [x.exp() for x in poles], [x.exp() for x in weights]
    rows, errors = [], []
    for zero in zeros:
        x, power = zero.exp(), (alpha * zero).exp()
        terms = [power * wk / (x + bk) for bk, wk in zip(b, w, strict=True)]
        rows += [(-term * bk / (x + bk)).mid() for bk, term in zip(b, terms, strict=True)] + [t.mid() for t in terms]
        errors.append((1 - sum(terms)).mid())
    n = len(zeros)
    change = arb_mat(n, n, rows).solve(arb_mat(n, 1, errors))
    return [change[i, 0].mid() for i in range(n)]


def rows(kappa, K):
    """(poles, weights) by alpha = 1/q and 1 - 1/q; the second is the first for 1 / (kappa x)."""
    found = {}
    poles, weights, zeros = zolotarev(kappa, K)

    def units(alpha):  # of the weights, so that what is extrapolated changes little
        sine = (arb.pi() * alpha).sin().log()
        return [sine - alpha * x for x in poles]

    alpha, before = arb(0.5), None
    for q in range(2, 9):
        first, goal = alpha, arb(1) / q
        count = math.ceil(float(first - goal) / STEP)
        for i in range(count):
            now = first + (goal - first) * (i + 1) / count
            state = poles + [w - u for w, u in zip(weights, units(alpha), strict=True)]
            guess, t = state, None
            if before is not None:
                t = (now - alpha) / (alpha - before[0])
                guess = [x + t * (x - y) for x, y in zip(state, before[1], strict=True)]
            before, alpha = (alpha, state), now
            poles = guess[:K]
            weights = [w + u for w, u in zip(guess[K:], units(alpha), strict=True)]
            for _ in range(8):
                change = newton(zeros, poles, weights, alpha)
                poles = [(x + d).mid() for x, d in zip(poles, change[:K], strict=True)]
                weights = [(x + d).mid() for x, d in zip(weights, change[K:], strict=True)]
                if max(abs(float(d)) for d in change) < 1e-11:
                    break
            else:
                raise ArithmeticError(f"no convergence: {kappa}, {K}, 1/{q}")
        size = number(mpmath.log(mpmath.mpf(kappa)))
        others = [-size - x for x in reversed(poles)]
        turned = [w - x - size * goal for x, w in zip(reversed(poles), reversed(weights), strict=True)]
        for share, sums in ((Fraction(1, q), (poles, weights)), (Fraction(q - 1, q), (others, turned))):
            found.setdefault(share, [[float(x.exp()) for x in values] for values in sums])
    return found


if __name__ == "__main__":
    columns = []
    for level in pole_table.LEVELS:
        for kappa, K in zip(level.edges, level.counts, strict=True):
            found = rows(float(kappa), K)
            columns.append(np.array([found[alpha] for alpha in pole_table.STORED]))
            print(f"{K} poles up to {kappa:.3g}", flush=True)
    np.save(Path(pole_table.__file__).with_name("pole_table.npy"), np.concatenate(columns, -1))
