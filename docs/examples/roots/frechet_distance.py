r"""
Frechet distance of few samples
===============================

The Frechet distance compares two sets of features by their means and covariances,

.. math:: |\mu_1 - \mu_2|^2 + \mathrm{tr}(C_1 + C_2 - 2\,(C_1^{1/2} C_2\, C_1^{1/2})^{1/2}).

With fewer samples than features both covariances are singular, and implementations that take the square root of
:math:`C_1 C_2` get complex numbers.
"""

import matplotlib.pyplot as plt
import numpy as np

import matroot
from matroot.demo.network import load_digits


def frechet(X, Y):
    """Squared Frechet distance of the rows of X and Y; leading dimensions are a batch."""

    def moments(Z):
        D = Z - Z.mean(axis=-2, keepdims=True)
        return Z.mean(axis=-2), np.swapaxes(D, -1, -2) @ D / (Z.shape[-2] - 1)

    (mean, C), (other_mean, D) = moments(X), moments(Y)
    R = matroot.sqrtm(C)
    M = R @ D @ R
    inner = matroot.sqrtm((M + np.swapaxes(M, -1, -2)) / 2)
    return np.square(mean - other_mean).sum(axis=-1) + np.trace(C + D - 2 * inner, axis1=-2, axis2=-1)


# %%
# Real features, 64 pixels of digits, against other digits and against digits with noise. Fifty draws of each number of
# samples are one batch.

rng = np.random.default_rng(0)
digits = load_digits().images
noisy = digits + 0.15 * rng.standard_normal(digits.shape)
counts = np.array([8, 16, 32, 64, 128, 256, 512])
same, other = [], []
for count in counts:
    rows = np.stack([rng.permutation(len(digits))[: 2 * count] for _ in range(50)])
    X, Y = digits[rows[:, :count]], rows[:, count:]
    same.append(frechet(X, digits[Y]))
    other.append(frechet(X, noisy[Y]))

fig, axis = plt.subplots(figsize=(7, 4), layout="constrained")
for name, values, color in (("digits and other digits", same, "C0"), ("digits and noisy digits", other, "C1")):
    low, middle, high = np.percentile(values, (5, 50, 95), axis=1)
    axis.loglog(counts, middle, "o-", color=color, label=name)
    axis.fill_between(counts, low, high, color=color, alpha=0.2)
axis.axhline(frechet(digits, noisy), color="C1", linestyle=":", label="the same, all 1,797 images")
axis.axvline(64, color="black", linewidth=1)
axis.set(xlabel="samples in each set (64 features)", ylabel="squared Frechet distance")
axis.set_xticks(counts, counts)
axis.minorticks_off()
axis.legend()
print(f"{len(counts) * 2 * 2 * 50} square roots of 64 x 64 matrices, smallest distance {min(map(np.min, same)):.3f}")

# %%
# Left of the black line the covariances are singular, and the distance is real all the same. It is far from its limit
# there: with 64 samples, two sets of the same digits are twice as far apart as digits and noisy digits are in the limit
# (the dotted line). Compare Frechet distances only with others of the same number of samples.
