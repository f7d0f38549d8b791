"""
5,000 covariances of brain signals
==================================

A brain-computer interface sees each trial as a small covariance matrix, here of 32 channels, and compares it with the
mean of each class. Square roots make the comparison less sensitive to trials with large amplitudes, and 5,000 of them
are one call.

The signals are synthetic: autoregressive sources near 10 Hz, mixed over neighbouring channels, with amplitudes that
vary from trial to trial, and one channel in a hundred disturbed. The class weakens the sources of one side, as the
imagined movement of a hand does.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
from scipy.signal import lfilter

import matroot

rng = np.random.default_rng(0)
trials, channels, samples = 5000, 32, 96
label = rng.integers(2, size=trials)
place = 2 * np.pi * np.arange(channels) / channels
mixing = np.exp(8 * (np.cos(place[:, None] - place) - 1))
strength = rng.lognormal(0.0, 0.5, (trials, channels, 1))
strength[label == 0, 6:11] *= 0.6
strength[label == 1, 22:27] *= 0.6
disturbance = np.where(rng.random((trials, channels, 1)) < 0.01, 40.0, 2.0)
radius, turn = 0.95, 2 * np.pi * 10 / 128  # poles of the filter: 10 Hz at 128 samples a second
noise = rng.standard_normal((trials, channels, samples + 64), dtype=np.float32)
sources = lfilter([1.0], [1.0, -2 * radius * np.cos(turn), radius**2], noise)[..., 64:]
signals = mixing @ (strength * sources) + disturbance * rng.standard_normal(sources.shape, dtype=np.float32)
C = signals @ signals.swapaxes(-1, -2) / samples

# %%
# All square roots, and what is known about them.

matroot.sqrtm(C[:8])  # the first call loads a compiled kernel
start = time.perf_counter()
result = matroot.solve(C, 2, inverse=False)
seconds = time.perf_counter() - start
print(f"{trials} roots in {1e3 * seconds:.0f} ms, all converged: {bool(result.converged.all())}")
print(f"largest residual {result.residual.max():.0e}, largest condition number {result.cond.max():.0e}")

# %%
# Nearest mean, by the distance of the covariances and by that of their square roots. The means are those of the first
# half of the trials, the accuracy is that on the second half.


def margin(features):
    """Distance to the mean of class 0 minus the distance to the mean of class 1."""
    half = trials // 2
    means = [features[:half][label[:half] == k].mean(axis=0) for k in (0, 1)]
    return np.subtract(*(np.linalg.norm(features[half:] - M, axis=(1, 2)) for M in means))


fig, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
for axis, (name, features) in zip(axes, {"covariances": C, "square roots": result.x}.items(), strict=True):
    m, truth = margin(features), label[trials // 2 :]
    axis.hist([m[truth == 0], m[truth == 1]], bins=60, range=np.percentile(m, (1, 99)), label=["class 0", "class 1"])
    axis.axvline(0, color="black", linewidth=1)
    axis.set(title=f"{name}: accuracy {np.mean((m > 0) == truth):.2f}", xlabel="distance to mean 0 minus to mean 1")
axes[0].legend()

# %%
# Square roots separate the classes better. A source or a disturbance of twice the amplitude has four times the
# covariance, but only twice the square root, so that loud trials weigh less in the means and in the distances.
