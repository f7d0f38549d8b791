"""
A month out of a year of credit ratings
=======================================

Agencies publish the probabilities of moving from one rating to another within a year; a risk model needs them for a
month. The month is the twelfth root of the yearly matrix, which is not symmetric.
"""

import matplotlib.pyplot as plt
import numpy as np

import matroot
from matroot.gallery import RATINGS, rating_transitions

year = rating_transitions()
result = matroot.solve(year, 12, inverse=False, assume_a="gen")
month = result.x
print(result.message)
print(f"twelve months are a year to {abs(np.linalg.matrix_power(month, 12) - year).max():.0e}")
print(f"rows add up to 1 within {abs(month.sum(axis=1) - 1).max():.0e}; smallest entry {month.min():.1e}")

# %%
# The smallest entry is negative: no matrix of probabilities has this year as its twelfth power, because transitions
# such as AAA to CCC did not occur within the year at all. The nearest matrix of probabilities changes no entry of the
# year by more than 0.03 per cent; the year is published to 0.01 per cent.

nearest = matroot.stochastic_root(year, 12)
print(nearest.message)
print(f"the year of the nearest month is off by {abs(np.linalg.matrix_power(nearest.x, 12) - year).max():.1e}")

fig, axes = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
for axis, P, title in ((axes[0], year, "a year, per cent"), (axes[1], month, "a month, per cent (red: negative)")):
    axis.imshow(np.log10(np.maximum(P, 1e-6)), cmap="Blues", vmin=-6, vmax=1)
    for (i, j), value in np.ndenumerate(100 * P):
        if abs(value) > 5e-4:
            color = "firebrick" if value < 0 else "white" if value > 20 else "black"
            number = f"{value:.3f}".rstrip("0").rstrip(".") if abs(value) < 1 else f"{value:.3g}"
            axis.text(j, i, number, ha="center", va="center", color=color, fontsize=7)
    axis.set_xticks(range(8), RATINGS, fontsize=7)
    axis.set_yticks(range(8), RATINGS, fontsize=7)
    axis.set_title(title)

# %%
# Read a row from left to right: where a firm of this rating is after a year, and after a month. The monthly
# probability of default of a CCC firm is more than a twelfth of the yearly one, because firms leave CCC during the
# year. The entries below zero are a few thousandths of a per cent.
