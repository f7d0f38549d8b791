r"""
Loewdin orthogonalization of an overlap matrix
==============================================

The basis functions of quantum chemistry overlap, and :math:`S^{-1/2}`, with :math:`S_{ij} = \langle f_i, f_j\rangle`,
turns them into the orthonormal functions that are nearest to them. The richer the basis, the nearer it is to linear
dependence, and the more digits :math:`S^{-1/2}` costs.
"""

import matplotlib.pyplot as plt
import numpy as np

import matroot

centres = np.arange(8.0)  # a chain of 8 atoms, a distance of 1 apart


def overlaps(exponents):
    """Overlap matrix of normalized Gaussians, one of every exponent on every atom."""
    a, x = (v.ravel() for v in np.meshgrid(exponents, centres))
    total = a[:, None] + a
    return np.sqrt(2 * np.sqrt(a[:, None] * a) / total) * np.exp(-a[:, None] * a / total * (x[:, None] - x) ** 2)


bases = {"one Gaussian an atom": [1.5], "two": [1.5, 0.4], "four": [1.5, 0.4, 0.1, 0.025]}
S = {name: overlaps(exponents) for name, exponents in bases.items()}
for name, matrix in S.items():
    print(f"{name}: {matroot.solve(matrix, 2).message}")

# %%
# In double precision the basis of four Gaussians an atom does not consist of 32 independent functions. Directions
# with an eigenvalue below a millionth of the largest are left out, as programs of quantum chemistry do; the rest is
# orthonormal.

result = matroot.solve(S["four"], 2, regularization=matroot.PseudoInverse(rtol=1e-6))
X = result.x
P = X @ S["four"] @ X
kept = np.linalg.matrix_rank(P, tol=0.5)
print(f"{kept} of {len(P)} directions kept; their condition number is {result.cond:.0e}")
print(f"a projection: |P P - P| = {abs(P @ P - P).max():.0e}")

# %%
# Left: the functions of the small basis before and after. Right: the eigenvalues of the three overlap matrices.

x = np.linspace(-2, 9, 500)
f = (2 * 1.5 / np.pi) ** 0.25 * np.exp(-1.5 * (x - centres[:, None]) ** 2)
g = matroot.inv_sqrtm(S["one Gaussian an atom"]) @ f
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
for k, color in ((3, "C0"), (4, "C1")):
    left.plot(x, f[k], "--", color=color, linewidth=1)
    left.plot(x, g[k], color=color)
left.set(title="two neighbours: dashed before, solid after", xlabel="position")
for name, matrix in S.items():
    w = np.linalg.eigvalsh(matrix)[::-1]
    right.semilogy(np.arange(1, len(w) + 1), abs(w) / w[0], ".-", label=name)
right.axhline(1e-6, color="black", linewidth=1)
right.set(title="eigenvalues over the largest, and the cut", xlabel="index", ylim=(1e-17, 3))
right.legend()

# %%
# After the transformation each function keeps its place and its shape, and gets small negative parts where its
# neighbours are. The eigenvalues of the largest basis fall below the rounding of double precision: without the cut
# the root would consist of rounding errors, and `matroot.solve` says so instead of returning it as an answer.
