"""
Samples of Gaussian fields
==========================

A Gaussian field with the covariance matrix K is :math:`K^{1/2} z` for white noise z; one with the precision matrix Q
is :math:`Q^{-1/2} z`. On a grid of 96 x 96 points K has 85 million entries. Here it is a function that multiplies by
means of FFTs, and no root is formed.
"""

import matplotlib.pyplot as plt
import numpy as np
import scipy.sparse

import matroot

rng = np.random.default_rng(0)
m, samples = 96, 24
n = m * m
noise = 1e-2
steps = np.minimum(np.arange(2 * m), 2 * m - np.arange(2 * m))  # distances on a torus of twice the size
distance = np.hypot(steps[:, None], steps)
spectrum = np.fft.rfft2(np.exp(-distance / 6))


def covariance(v):
    """Multiply by the matrix of exp(-distance / 6) of all pairs of points."""
    fields = np.zeros((v.shape[1], 2 * m, 2 * m))
    fields[:, :m, :m] = v.T.reshape(-1, m, m)
    product = np.fft.irfft2(spectrum * np.fft.rfft2(fields), (2 * m, 2 * m))
    return product[:, :m, :m].reshape(-1, n).T


# %%
# K plus the variance of the noise is at least that variance, so that the error has a bound and is no estimate.

z = rng.standard_normal((n, samples))
result = matroot.solve_apply(covariance, 2, z, inverse=False, rtol=1e-3, regularization=matroot.Ridge(absolute=noise))
print(result.message)
print(f"{result.n_iter} steps, certificate: {result.certificate}, largest error {result.error.max():.0e}")
fields = result.x.T.reshape(samples, m, m)

# %%
# The precision matrix of a Markov field: the Laplacian of the grid and a constant, to the power 3/2, which is no sparse
# matrix. Its inverse root is the power -3/4.

T = scipy.sparse.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(m, m))
A = scipy.sparse.kronsum(T, T) + 0.02 * scipy.sparse.identity(n)
markov = matroot.solve_apply(A.tocsr(), None, z[:, 0], s=-0.75, rtol=1e-3)
print(markov.message)

# %%
# The covariance of the samples against the one that was asked for.

lags = np.arange(25)
measured = [np.mean(fields[:, :, : m - lag] * fields[:, :, lag:]) for lag in lags]
fig, axes = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
axes[0].imshow(fields[0])
axes[0].set_title("covariance exp(-distance / 6)")
axes[1].imshow(markov.x.reshape(m, m))
axes[1].set_title("Markov field, power 3/2")
axes[2].plot(lags, np.exp(-lags / 6) + noise * (lags == 0), label="wanted")
axes[2].plot(lags, measured, "o", markersize=4, label=f"{samples} samples")
axes[2].set_xlabel("distance")
axes[2].set_title("covariance")
axes[2].legend()
for axis in axes[:2]:
    axis.set_axis_off()
plt.show()
