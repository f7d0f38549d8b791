"""The optimizer `KLShampoo`: Shampoo with statistics of whitened gradients."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from matroot_optim.shampoo import Shampoo


@dataclass(frozen=True)
class KLShampoo(Shampoo):
    r"""Shampoo whose statistics estimate the covariance of the gradient in the Kullback-Leibler sense.

    For a gradient G (m x n) the statistics L and R are decayed means of :math:`G R^{-1} G^T / n` and
    :math:`G^T L^{-1} G / m`: each of the gradient whitened by the other side. If the covariance of G is a Kronecker
    product, they find it, size included, and from fewer gradients than Shampoo's own products, in which the largest
    directions of the other side count most. The direction is :math:`L^{-1/2} M R^{-1/2}`.

    Parameters
    ----------
    learning_rate : float or callable
        A number, or a function of the step counted from 0. With the default graft, take Adam's.
    **options
        Options of `Shampoo`, which this is with ``statistics_of="whitened"`` and exponent -1/2.

    Notes
    -----
    Lin et al., Understanding and improving Shampoo and SOAP via Kullback-Leibler minimization, arXiv 2509.03378. The
    inverses are the roots in use, squared. Roots are computed from the first step on.

    Examples
    --------
    >>> import numpy as np
    >>> from matroot_optim import KLShampoo
    >>> opt = KLShampoo(0.1)
    >>> W = np.ones((4, 3))
    >>> updates, state = opt.update(W, opt.init(W), W)
    """

    exponent: Any = Fraction(-1, 2)
    statistics_of: str = "whitened"
