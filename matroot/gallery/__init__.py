"""Test matrices with known roots.

The gallery serves tests, benchmarks, documentation and users. Functions that know the exact powers of their
matrix return ``(A, root)``, where ``root(s)`` is ``A**s``; the others return the matrix. Random matrices take
``rng``, anything that `numpy.random.default_rng` accepts: an int gives the same matrix each time, None does not.

>>> import numpy as np
>>> from matroot import gallery
>>> A, root = gallery.spd(50, cond=1e4, rng=0)
>>> X = root(-0.25)
>>> bool(np.allclose(np.linalg.matrix_power(X, 4) @ A, np.eye(50), atol=1e-10))
True
"""

from matroot.gallery.classics import frank, hilbert, kms, lehmer, pascal, toeplitz, wishart
from matroot.gallery.general import general, jordan
from matroot.gallery.symmetric import SPECTRA, Power, eigenvalues, orthogonal, spd
from matroot.gallery.transitions import RATINGS, embeddable_transitions, rating_transitions

__all__ = [
    "RATINGS",
    "SPECTRA",
    "Power",
    "eigenvalues",
    "embeddable_transitions",
    "frank",
    "general",
    "hilbert",
    "jordan",
    "kms",
    "lehmer",
    "orthogonal",
    "pascal",
    "rating_transitions",
    "spd",
    "toeplitz",
    "wishart",
]
