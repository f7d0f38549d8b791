"""Symmetric and Hermitian positive (semi)definite matrices from a chosen spectrum and a Haar basis."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]
Power = Callable[[Any], Array]  # s -> A**s, s real (int, float or Fraction)
Spectrum = Literal["geometric", "two_cluster", "power_law", "arithmetic", "low_rank"]
Seed = int | np.random.Generator | None
SPECTRA: tuple[Spectrum, ...] = ("geometric", "two_cluster", "power_law", "arithmetic", "low_rank")


def eigenvalues(n: int, cond: float, spectrum: Spectrum = "geometric") -> NDArray[np.float64]:
    """
    Return eigenvalues in descending order, from 1 down to 1/cond.

    Parameters
    ----------
    n : int
        Number of eigenvalues, at least 0. A single eigenvalue is 1, whatever `cond` is.
    cond : float
        Largest over smallest eigenvalue (over the smallest that is not zero, for "low_rank"), at least 1.
    spectrum : str
        - "geometric": equal ratios, the hard case for iterations: every scale is present;
        - "two_cluster": the larger half equal to 1, the rest equal to 1/cond;
        - "power_law": ``i**-alpha``, as the statistics of networks and natural images;
        - "arithmetic": equal gaps, so that only a few eigenvalues are small;
        - "low_rank": "geometric" on the first ``ceil(n/2)``, the rest exactly 0.

    Returns
    -------
    numpy.ndarray of float64, shape (n,)

    Raises
    ------
    ValueError
        For a negative n, a cond that is below 1 or not finite, or an unknown spectrum.

    Examples
    --------
    >>> from matroot.gallery import eigenvalues
    >>> eigenvalues(3, 100.0)
    array([1.  , 0.1 , 0.01])
    >>> eigenvalues(4, 100.0, "low_rank")
    array([1.  , 0.01, 0.  , 0.  ])
    """
    if n < 0:
        raise ValueError(f"n must be at least 0, got {n}")
    if not (np.isfinite(cond) and cond >= 1):
        raise ValueError(f"cond must be finite and at least 1, got {cond}")
    if spectrum not in SPECTRA:
        raise ValueError(f"spectrum must be one of {', '.join(SPECTRA)}, got {spectrum!r}")
    if n <= 1:
        return np.ones(n)
    i = np.arange(n)
    if spectrum == "geometric":
        return np.asarray(cond ** (-i / (n - 1)))
    if spectrum == "two_cluster":
        return np.where(i < n - n // 2, 1.0, 1 / cond)
    if spectrum == "power_law":
        return np.asarray((i + 1.0) ** (-np.log(cond) / np.log(n)))
    if spectrum == "arithmetic":
        return np.linspace(1.0, 1 / cond, n)
    rank = n - n // 2
    return np.concatenate([eigenvalues(rank, cond), np.zeros(n - rank)])


def orthogonal(n: int, *, batch: tuple[int, ...] = (), dtype: DTypeLike = np.float64, rng: Seed = None) -> Array:
    """
    Draw orthogonal (unitary, for a complex dtype) matrices from the Haar measure.

    The result is the Q of a Gaussian matrix, with the phases of R's diagonal moved into Q. Without this step the
    distribution would depend on the QR code (F. Mezzadri, Notices of the AMS 54, 2007, section 5).

    Parameters
    ----------
    n : int
    batch : tuple of int
        Leading dimensions.
    dtype : dtype
        float64 or complex128.
    rng : int, numpy.random.Generator or None

    Returns
    -------
    numpy.ndarray, shape (..., n, n)

    Examples
    --------
    >>> import numpy as np
    >>> from matroot.gallery import orthogonal
    >>> Q = orthogonal(5, batch=(2,), rng=0)
    >>> bool(np.allclose(Q @ Q.mT, np.eye(5)))
    True
    """
    rng = np.random.default_rng(rng)
    G = rng.standard_normal((*batch, n, n))
    if np.dtype(dtype).kind == "c":
        G = G + 1j * rng.standard_normal((*batch, n, n))
    Q, R = np.linalg.qr(G)
    d = np.diagonal(R, axis1=-2, axis2=-1)
    return np.asarray(Q * (d / np.abs(d))[..., None, :])


def spd(
    n: int,
    cond: float,
    spectrum: Spectrum = "geometric",
    batch: tuple[int, ...] = (),
    dtype: DTypeLike = np.float64,
    rng: Seed = None,
) -> tuple[Array, Power]:
    """
    Return a positive definite ``A = Q diag(lambda) Q^H`` with a chosen spectrum, and its exact powers.

    Parameters
    ----------
    n : int
        Size; 0 and 1 are allowed.
    cond : float
        2-norm condition number; up to about 1e12 makes sense in float64. For "low_rank" it is the condition
        number on the range.
    spectrum : str
        See `eigenvalues`. The largest eigenvalue is 1.
    batch : tuple of int
        Leading dimensions; every matrix of the batch has its own basis and the same spectrum.
    dtype : dtype
        Of A: a real floating type gives symmetric, a complex type Hermitian matrices, to the last bit.
    rng : int, numpy.random.Generator or None
        Seed of the bases.

    Returns
    -------
    A : numpy.ndarray, shape (..., n, n)
    root : callable
        ``root(s)`` is ``A**s`` for real s, in float64 or complex128, computed from lambda and Q. For
        "low_rank" the zero eigenvalues stay zero for every s, so that ``root(-1)`` is the pseudo-inverse and
        ``root(0)`` the projector onto the range.

    Notes
    -----
    `root` belongs to the matrix before rounding. Rounding changes A by about ``eps*norm(A)``, eps the unit
    roundoff of `dtype`, so ``root(s)`` differs from the power of the returned A by up to about
    ``eps * cond * |s|``, relative to its norm. A method that only has A cannot be expected to come closer.

    Examples
    --------
    >>> import numpy as np
    >>> from matroot.gallery import spd
    >>> A, root = spd(20, 1e3, "power_law", batch=(2,), rng=0)
    >>> A.shape, bool(np.allclose(root(0.5) @ root(0.5), A))
    ((2, 20, 20), True)
    """
    dtype = np.dtype(dtype)
    is_complex = dtype.kind == "c"
    if dtype.kind not in "fc" and dtype.name != "bfloat16":  # to which numpy gives the kind "V"
        raise ValueError(f"dtype must be a floating or complex type, got {dtype}")
    lam = eigenvalues(n, cond, spectrum)
    Q = orthogonal(n, batch=batch, dtype=complex if is_complex else float, rng=rng)
    nonzero = lam > 0

    def root(s: Any) -> Array:
        power = np.zeros(n)
        power[nonzero] = lam[nonzero] ** float(s)
        return _recombine(Q, power)

    return root(1).astype(dtype), root


def _recombine(Q: Array, w: Array) -> Array:
    """Compute ``Q diag(w) Q^H``, Hermitian to the last bit, with an error close to a single rounding.

    A plain product would have an error of several eps*norm(A), and of cond times as much in the roots. Here the
    leading 25 bits of both factors are multiplied first, which BLAS does without any rounding. The other
    products are smaller by a factor 2**-25.
    """
    Q = Q.astype(np.result_type(Q, np.longdouble))
    scale = np.ldexp(1.0, np.frexp(np.max(w, initial=0.0))[1])
    W = Q * (w / scale)
    Q_high, W_high = (np.ldexp(1.0, -25) * np.round(np.ldexp(1.0, 25) * F) for F in (Q, W))
    Q, W, dQ, dW, Q_high, W_high = map(_double, (Q, W, Q - Q_high, W - W_high, Q_high, W_high))
    X = W_high @ Q_high.conj().mT + (dW @ Q.conj().mT + W_high @ dQ.conj().mT)
    return np.asarray((X + X.conj().mT) * (scale / 2))


def _double(F: Array) -> Array:
    return F.astype(complex if F.dtype.kind == "c" else float)
