"""
Roots of a slowly changing matrix
=================================

The statistics of an optimizer, or a covariance over a moving window, change a little at every step.
`matroot.RootTracker` updates the last root by a few products, and decomposes the matrix again only when its error
bound asks for it.
"""

import matplotlib.pyplot as plt
import numpy as np

import matroot

rng = np.random.default_rng(0)
n, steps = 192, 150
scale = np.geomspace(1, 1e-2, n)[:, None]


def sample():
    """The covariance of some new samples."""
    G = scale * rng.standard_normal((n, 2 * n))
    return G @ G.T / (2 * n)


tracker = matroot.RootTracker(4, regularization=1e-6, rtol=1e-3)
A = sample()
bound, error, way = [], [], []
for step in range(steps):
    weight = 0.001 if step < 100 else 0.004  # the data change faster from step 100 on
    A = (1 - weight) * A + weight * sample()
    A = (A + A.T) / 2
    root = tracker.update(A)
    exact = matroot.inverse_pth_root(A, 4, regularization=1e-6)
    bound.append(float(tracker.error))
    error.append(np.linalg.norm(root.x - exact, 2) / np.linalg.norm(exact, 2))
    way.append(str(tracker.way))
print(tracker.summary())

# %%
# The bound, the true error, and the steps with a decomposition.

step, full = np.arange(steps), np.array(way) == "full"
fig, axis = plt.subplots(figsize=(8, 4), layout="constrained")
axis.semilogy(step[~full], np.array(bound)[~full], ".", label="bound of the error (tracker.error)")
axis.semilogy(step[~full], np.array(error)[~full], ".", label="true error")
axis.semilogy(step[full], np.full(full.sum(), 2e-7), "k^", label=f"decomposition, {full.sum()} of {steps} steps")
axis.axhline(1e-3, color="black", linewidth=1, linestyle=":", label="rtol")
axis.set(xlabel="step", ylabel="relative error of the root", ylim=(1e-7, 1e-2))
axis.legend(loc="upper left", ncols=2)

# %%
# After a decomposition the error of the updates grows from step to step; the bound stays above it and below ``rtol``.
# When the bound would exceed ``rtol``, the matrix is decomposed again. From step 100 on it changes faster and
# decompositions are more frequent. No root is worse than was asked for. :doc:`/guide/warm` has the bound, and what a
# run gains in time.
