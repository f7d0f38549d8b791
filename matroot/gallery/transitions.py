"""Transition matrices of credit ratings: general, stochastic, and in need of monthly roots."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from matroot.gallery.symmetric import Power, Seed

RATINGS = ("AAA", "AA", "A", "BBB", "BB", "B", "CCC", "Default")

# Per cent a year. Standard & Poor's CreditWeek, 15 April 1996, as printed in J.P. Morgan, CreditMetrics
# Technical Document, 1997, table 1.1. Where printings differ (BBB to BBB and to CCC), the numbers whose row
# adds up to 100 are used.
_PER_CENT = (
    (90.81, 8.33, 0.68, 0.06, 0.12, 0.00, 0.00, 0.00),
    (0.70, 90.65, 7.79, 0.64, 0.06, 0.14, 0.02, 0.00),
    (0.09, 2.27, 91.05, 5.52, 0.74, 0.26, 0.01, 0.06),
    (0.02, 0.33, 5.95, 86.93, 5.30, 1.17, 0.12, 0.18),
    (0.03, 0.14, 0.67, 7.73, 80.53, 8.84, 1.00, 1.06),
    (0.00, 0.11, 0.24, 0.43, 6.48, 83.46, 4.07, 5.20),
    (0.22, 0.00, 0.22, 1.30, 2.38, 11.24, 64.86, 19.79),
    (0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 100.00),
)


def rating_transitions() -> NDArray[np.float64]:
    """
    Return the published one-year probabilities of moving between the ratings of `RATINGS`.

    Row i is the rating at the start of the year, column j at its end; Default is absorbing. The published
    figures have two decimals and rows that add up to 99.99 to 100.01 per cent; here each row is divided by
    its sum.

    The matrix has no stochastic 12th root: the principal root has a few slightly negative entries, because
    zeros such as AAA to CCC within a year do not fit any monthly process (Higham and Lin, Linear Algebra
    Appl. 435, 2011, "On pth roots of stochastic matrices").

    Returns
    -------
    numpy.ndarray of float64, shape (8, 8)

    References
    ----------
    Standard & Poor's CreditWeek, 15 April 1996, in: G. M. Gupton, C. C. Finger and M. Bhatia, CreditMetrics
    Technical Document, J.P. Morgan, 1997, table 1.1.

    Examples
    --------
    >>> from matroot.gallery import RATINGS, rating_transitions
    >>> P = rating_transitions()
    >>> float(P[RATINGS.index("BBB"), RATINGS.index("Default")])
    0.0018
    """
    P = np.array(_PER_CENT)
    return np.asarray(P / P.sum(axis=1, keepdims=True))


def embeddable_transitions(n: int, *, rate: float = 0.5, rng: Seed = None) -> tuple[NDArray[np.float64], Power]:
    """
    Return a random yearly transition matrix ``P = expm(Q)`` with stochastic roots of every order.

    Q is a generator: rates off the diagonal, rows that add up to 0, far ratings rarely reached, the last
    state absorbing.

    Parameters
    ----------
    n : int
        Number of states.
    rate : float
        Largest rate of leaving a state, per year; below pi, for then every eigenvalue of Q is in the strip
        ``|Im| < pi`` and ``expm(s Q)`` is the principal power.
    rng : int, numpy.random.Generator or None

    Returns
    -------
    P : numpy.ndarray of float64, shape (n, n)
    root : callable
        ``root(s)`` is ``expm(s Q)``: nonnegative with rows adding up to 1 for s >= 0; ``root(1/12)`` is the
        month.

    Examples
    --------
    >>> import numpy as np
    >>> from matroot.gallery import embeddable_transitions
    >>> P, root = embeddable_transitions(6, rng=0)
    >>> bool(np.allclose(np.linalg.matrix_power(root(1 / 12), 12), P)), bool((root(1 / 12) >= 0).all())
    (True, True)
    """
    if not 0 < rate < np.pi:
        raise ValueError(f"rate must be in (0, pi), got {rate}")
    rng = np.random.default_rng(rng)
    i = np.arange(n)
    Q = rng.uniform(0.5, 1.0, (n, n)) * 4.0 ** -np.abs(i[:, None] - i)
    Q[i, i] = 0
    Q[n - 1 :] = 0
    if n > 1:
        Q *= rate / Q.sum(axis=1).max()
    Q[i, i] = -Q.sum(axis=1)

    def root(s: Any) -> NDArray[np.float64]:
        from scipy.linalg import expm

        return np.asarray(expm(float(s) * Q))

    return root(1), root
