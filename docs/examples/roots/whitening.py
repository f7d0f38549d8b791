"""
Whitening with a singular covariance
====================================

Whitening multiplies data by :math:`C^{-1/2}`, so that all directions have variance 1 and none is correlated with
another. Pixels that are black in every image make the covariance :math:`C` singular, and :math:`C^{-1/2}` does not
exist: a regularization has to say what becomes of its null space.
"""

import matplotlib.pyplot as plt
import numpy as np

import matroot
from matroot.demo.network import load_digits

digits = load_digits().images  # 1,797 images of 8 x 8 pixels, as rows
X = digits - digits.mean(axis=0)
C = np.cov(X, rowvar=False)
print(matroot.solve(C, 2).message)

# %%
# Two rules give a whitening all the same. `matroot.PseudoInverse` leaves the null space empty. `matroot.Floor` raises
# the smallest eigenvalues to a hundredth of the largest, so that directions with little variance, which are mostly
# noise, are not blown up.

rules = {"PseudoInverse()": matroot.PseudoInverse(), "Floor(0.01)": matroot.Floor(0.01)}
whitened = {}
for name, rule in rules.items():
    result = matroot.solve(C, 2, regularization=rule)
    whitened[name] = X @ result.x
    print(f"{name}: {matroot.Status(int(result.status)).name}, residual {result.residual:.0e}")

# %%
# The covariance of the whitened pixels has the eigenvalues 1 and, for the null space, 0.

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", width_ratios=(5, 3))
images = np.stack([digits[:8], *(W[:8] for W in whitened.values())]).reshape(3, 8, 8, 8)
images /= np.percentile(abs(images), 99, axis=(1, 2, 3), keepdims=True)
left.imshow(images.transpose(0, 2, 1, 3).reshape(24, 64), cmap="RdBu_r", vmin=-1, vmax=1)
left.set_yticks([3.5, 11.5, 19.5], ["pixels", *rules], fontsize=8)
left.set_xticks([])
left.set_title("eight digits, and the same whitened")
for (name, W), style in zip(whitened.items(), ("o", "."), strict=True):
    right.plot(np.linalg.eigvalsh(np.cov(W, rowvar=False))[::-1], style, label=name)
right.set(xlabel="index", title="variance of the whitened pixels")
right.legend()

# %%
# Under the pseudo-inverse every direction has variance 1 or, in the null space, 0. Under the floor, some twenty
# directions below a hundredth of the largest eigenvalue keep less than 1: they are not blown up. What all digits have
# in common is gone from both; the rare pixels of a digit stand out.
