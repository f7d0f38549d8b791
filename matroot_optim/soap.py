"""The optimizer `SOAP`: Adam in the eigenbases of Shampoo's statistics."""

from __future__ import annotations

from dataclasses import dataclass

from matroot_optim.shampoo import Shampoo


@dataclass(frozen=True)
class SOAP(Shampoo):
    r"""SOAP for any array framework: Adam in the slowly changing eigenbases of Shampoo's statistics.

    For a gradient G (m x n), its mean M, the statistics L and R of `Shampoo`, and their eigenvectors Q_L and Q_R, the
    second moment V is the decayed mean of :math:`(Q_L^T G Q_R)^2`, entry by entry, and the direction is
    :math:`Q_L (Q_L^T M Q_R / \sqrt V) Q_R^T`. State, blocks, tables, engines, checkpoints and diagnostics are those of
    `Shampoo`; each root is a basis, and its residual tells how far its columns are from orthonormal.

    Parameters
    ----------
    learning_rate : float or callable
        A number, or a function of the step counted from 0. Take Adam's, or twice that.
    betas : (float, float)
        Decay of the momentum; decay of the statistics and, without a ``graft_beta``, of the second moment.
    basis : {"qr", "eigh"}
        Renewal of a basis: one step of orthogonal iteration from the old one, as published, or a decomposition.
    graft : {"adam", "rmsprop", "adagrad"}
        First-order method in the basis, and of parameters without one.
    statistics_of : {"gradient", "whitened"}
        "whitened" is KL-SOAP: each statistic is of the gradient whitened by the other sides, as in `KLShampoo`, with
        their bases and their current eigenvalues.
    **options
        All other options of `Shampoo`. The exponent, `start_step` and `mix_steps` are those of tables, and so is the
        ridge but for whitened statistics.

    Notes
    -----
    Vyas et al., SOAP: Improving and Stabilizing Shampoo using Adam, arXiv 2409.11321. As there, a step's bases have
    not seen its gradient, so that a matrix first moves with its second gradient; the momentum is kept in the original
    space; a refined basis keeps the second moment of each of its columns. A decomposed basis has other columns, and V
    is replaced by the variances that uncorrelated old coordinates would have in it.

    Tables move by roots as under `Shampoo`, those of the step before: their rows are seen more and less often, and V
    would divide each by a size of its own. `preconditioned_dims` "none" gives them Adam's step.

    Examples
    --------
    >>> import numpy as np
    >>> from matroot_optim import SOAP, apply_updates
    >>> target = np.arange(12.0).reshape(4, 3)
    >>> opt = SOAP(lambda step: 0.3 * 0.99**step)
    >>> params = {"w": np.zeros((4, 3))}
    >>> state = opt.init(params)
    >>> for _ in range(400):
    ...     grads = {"w": params["w"] - target}
    ...     updates, state = opt.update(grads, state, params)
    ...     params = apply_updates(params, updates)
    >>> bool(abs(params["w"] - target).max() < 0.1)
    True
    """

    algorithm: str = "soap"
    betas: tuple[float, float] = (0.95, 0.95)
