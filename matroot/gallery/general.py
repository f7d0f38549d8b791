"""General matrices with known eigenvalues and known powers."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from matroot.gallery.symmetric import Power, Seed, Spectrum, eigenvalues, orthogonal

Array = NDArray[Any]


def general(
    n: int,
    cond: float = 100.0,
    spectrum: Spectrum = "geometric",
    *,
    eigenvector_cond: float = 10.0,
    max_angle: float = 0.75 * np.pi,
    batch: tuple[int, ...] = (),
    dtype: DTypeLike = np.float64,
    rng: Seed = None,
) -> tuple[Array, Power]:
    """
    Return ``A = V D V^{-1}`` with chosen eigenvalues and eigenvector condition, and its exact powers.

    ``V = U diag(sigma) W^H`` with Haar U and W, so that ``V^{-1}`` needs no solve and cond(V) is exact. A
    real matrix has positive real eigenvalues and complex pairs in turn, the pairs as scaled 2 x 2 rotations
    in D.

    Parameters
    ----------
    n : int
    cond : float
        Largest over smallest modulus of the eigenvalues; the largest is 1.
    spectrum : str
        Of the moduli; see `eigenvalues`. "low_rank" is refused: its roots need not exist.
    eigenvector_cond : float
        2-norm condition number of V; 1 gives a normal matrix.
    max_angle : float
        Arguments of the complex eigenvalues are drawn from ``[-max_angle, max_angle]``; below pi, so that the
        principal root exists.
    batch, dtype, rng
        As for `spd`.

    Returns
    -------
    A : numpy.ndarray, shape (..., n, n)
    root : callable
        ``root(s)`` is the principal power ``A**s`` in float64 or complex128, of A before rounding. The power of
        the rounded A differs by up to about ``eps * cond * eigenvector_cond**2 * |s|``, relative.

    Examples
    --------
    >>> import numpy as np
    >>> from matroot.gallery import general
    >>> A, root = general(12, rng=0)
    >>> X = root(1 / 3)
    >>> bool(np.allclose(X @ X @ X, A)), bool(np.iscomplexobj(X))
    (True, False)
    """
    dtype = np.dtype(dtype)
    if dtype.kind not in "fc":
        raise ValueError(f"dtype must be a floating or complex type, got {dtype}")
    if spectrum == "low_rank":
        raise ValueError("spectrum 'low_rank' has zero eigenvalues; a general matrix needs nonzero ones")
    if not eigenvector_cond >= 1:
        raise ValueError(f"eigenvector_cond must be at least 1, got {eigenvector_cond}")
    if not 0 <= max_angle < np.pi:
        raise ValueError(f"max_angle must be in [0, pi), got {max_angle}")
    rng = np.random.default_rng(rng)
    field = complex if dtype.kind == "c" else float
    r = eigenvalues(n, cond, spectrum)
    U = orthogonal(n, batch=batch, dtype=field, rng=rng)
    W = orthogonal(n, batch=batch, dtype=field, rng=rng)
    sigma = np.sqrt(eigenvector_cond) * eigenvalues(n, eigenvector_cond)
    V = (U * sigma) @ W.conj().mT
    V_inverse = (W / sigma) @ U.conj().mT

    if dtype.kind == "c":
        theta = rng.uniform(-max_angle, max_angle, (*batch, n))

        def root(s: Any) -> Array:
            s = float(s)
            return np.asarray((V * (r**s * np.exp(1j * s * theta))[..., None, :]) @ V_inverse)
    else:
        pairs = np.arange(1, n - 1, 3)  # rows (1, 2), (4, 5), ... are pairs; rows 0, 3, ... are real
        r[pairs] = r[pairs + 1]  # both get the smaller modulus: 1 stays in row 0, 1/cond in the last
        theta = rng.uniform(0, max_angle, (*batch, len(pairs)))

        def root(s: Any) -> Array:
            s = float(s)
            D = np.zeros((*batch, n, n))
            D[..., np.arange(n), np.arange(n)] = r**s
            c, t = r[pairs] ** s * np.cos(s * theta), r[pairs] ** s * np.sin(s * theta)
            D[..., pairs, pairs] = D[..., pairs + 1, pairs + 1] = c
            D[..., pairs, pairs + 1], D[..., pairs + 1, pairs] = -t, t
            return np.asarray(V @ D @ V_inverse)

    return root(1).astype(dtype), root


def jordan(n: int, eigenvalue: float | complex) -> tuple[Array, Power]:
    """
    Return a Jordan block, and its principal powers.

    ``f(J)`` is upper triangular Toeplitz with ``f^(k)(lambda)/k!`` on the k-th superdiagonal (Higham,
    Functions of Matrices, 2008, eq. 1.4); for the power that is ``binomial(s, k) lambda**(s - k)``.

    Parameters
    ----------
    n : int
    eigenvalue : float or complex
        On the diagonal; ones stand above it.

    Returns
    -------
    J : numpy.ndarray, shape (n, n)
        float64, or complex128 for a complex eigenvalue.
    root : callable
        ``root(s)``; it raises ValueError if the principal power does not exist, that is, for an eigenvalue on
        the closed negative real axis.

    Examples
    --------
    >>> from matroot.gallery import jordan
    >>> J, root = jordan(3, 4.0)
    >>> root(0.5)
    array([[ 2.      ,  0.25    , -0.015625],
           [ 0.      ,  2.      ,  0.25    ],
           [ 0.      ,  0.      ,  2.      ]])
    """
    J = np.eye(n) * eigenvalue + np.eye(n, k=1)

    def root(s: Any) -> Array:
        if np.imag(eigenvalue) == 0 and np.real(eigenvalue) <= 0:
            raise ValueError(f"no principal power: the eigenvalue {eigenvalue} is on the closed negative real axis")
        s = float(s)
        X, coefficient = np.zeros_like(J), eigenvalue**s
        for k in range(n):
            X += coefficient * np.eye(n, k=k)
            coefficient = coefficient * (s - k) / ((k + 1) * eigenvalue)
        return X

    return J, root
