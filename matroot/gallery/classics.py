"""Matrices with names: Hilbert, Frank, Kac-Murdock-Szego, Lehmer, Pascal, Toeplitz, Wishart.

Definitions and properties follow N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed.,
2002, chapter 28, and the references named below.
"""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from matroot.gallery.symmetric import Power, Seed

Array = NDArray[Any]


def hilbert(n: int) -> NDArray[np.float64]:
    """
    Return the Hilbert matrix ``1/(i + j - 1)``: positive definite, cond about ``exp(3.5 n)``.

    In float64 the matrix is usable up to n = 9, and numerically singular from n = 12.

    Parameters
    ----------
    n : int

    Returns
    -------
    numpy.ndarray of float64, shape (n, n)

    Examples
    --------
    >>> from matroot.gallery import hilbert
    >>> hilbert(2)
    array([[1.        , 0.5       ],
           [0.5       , 0.33333333]])
    """
    i = np.arange(n)
    return 1.0 / (i[:, None] + i + 1)


def frank(n: int) -> NDArray[np.float64]:
    """
    Return the Frank matrix: upper Hessenberg, determinant 1, with real positive eigenvalues in reciprocal pairs.

    The small eigenvalues are very sensitive: a general matrix that is hard for a Schur form from n = 12 on
    (W. L. Frank, J. SIAM 6, 1958).

    Parameters
    ----------
    n : int

    Returns
    -------
    numpy.ndarray of float64, shape (n, n)

    Examples
    --------
    >>> from matroot.gallery import frank
    >>> frank(4)
    array([[4., 3., 2., 1.],
           [3., 3., 2., 1.],
           [0., 2., 2., 1.],
           [0., 0., 1., 1.]])
    """
    i = np.arange(n)
    F = n - np.maximum(i[:, None], i)
    return np.triu(F.astype(float), k=-1)


def kms(n: int, rho: float = 0.5) -> NDArray[np.float64]:
    """
    Return the Kac-Murdock-Szego matrix ``rho**|i - j|``, the covariance of a first-order autoregressive process.

    The matrix is positive definite for ``|rho| < 1``; its inverse is tridiagonal, and cond is below
    ``((1 + |rho|)/(1 - |rho|))**2``.

    Parameters
    ----------
    n : int
    rho : float
        Between -1 and 1.

    Returns
    -------
    numpy.ndarray of float64, shape (n, n)

    Examples
    --------
    >>> from matroot.gallery import kms
    >>> kms(3)
    array([[1.  , 0.5 , 0.25],
           [0.5 , 1.  , 0.5 ],
           [0.25, 0.5 , 1.  ]])
    """
    if not abs(rho) < 1:
        raise ValueError(f"rho must be between -1 and 1, got {rho}")
    i = np.arange(n)
    return np.asarray(float(rho) ** np.abs(i[:, None] - i))


def lehmer(n: int) -> NDArray[np.float64]:
    """
    Return the Lehmer matrix ``min(i, j)/max(i, j)``: positive definite, cond between n and ``4 n**2``,
    inverse tridiagonal.

    Parameters
    ----------
    n : int

    Returns
    -------
    numpy.ndarray of float64, shape (n, n)

    Examples
    --------
    >>> from matroot.gallery import lehmer
    >>> lehmer(2)
    array([[1. , 0.5],
           [0.5, 1. ]])
    """
    i = np.arange(1.0, n + 1)
    return np.asarray(np.minimum(i[:, None], i) / np.maximum(i[:, None], i))


def pascal(n: int) -> NDArray[np.float64]:
    """
    Return the symmetric Pascal matrix ``binomial(i + j, i)``: positive definite, determinant 1, eigenvalues
    in reciprocal pairs.

    The entries are exact in float64 up to n = 29; cond grows like ``16**n / (n pi)``.

    Parameters
    ----------
    n : int

    Returns
    -------
    numpy.ndarray of float64, shape (n, n)

    Examples
    --------
    >>> from matroot.gallery import pascal
    >>> pascal(4)
    array([[ 1.,  1.,  1.,  1.],
           [ 1.,  2.,  3.,  4.],
           [ 1.,  3.,  6., 10.],
           [ 1.,  4., 10., 20.]])
    """
    P = np.ones((n, n))
    for i in range(1, n):
        P[i] = np.cumsum(P[i - 1])
    return P


def toeplitz(n: int, lower: float = -1.0, diagonal: float = 3.0, upper: float = -0.5) -> tuple[Array, Power]:
    """
    Return a nonsymmetric tridiagonal Toeplitz matrix with known eigenvalues and powers.

    The eigenvalues are ``diagonal + 2 sqrt(lower*upper) cos(k pi/(n + 1))``, k = 1..n. The matrix is similar
    to a symmetric matrix by ``diag(d**i)``, ``d = sqrt(lower/upper)``, so cond(V) is ``max(d, 1/d)**(n - 1)``:
    the matrix can be made as non-normal as wanted.

    Parameters
    ----------
    n : int
    lower, diagonal, upper : float
        The three constants; lower and upper not zero. With opposite signs the eigenvalues are complex pairs.

    Returns
    -------
    A : numpy.ndarray of float64, shape (n, n)
    root : callable
        ``root(s)`` is the principal power ``A**s``, real; a ValueError if an eigenvalue lies on the closed
        negative real axis.

    Examples
    --------
    >>> import numpy as np
    >>> from matroot.gallery import toeplitz
    >>> A, root = toeplitz(3)
    >>> A
    array([[ 3. , -0.5,  0. ],
           [-1. ,  3. , -0.5],
           [ 0. , -1. ,  3. ]])
    >>> bool(np.allclose(root(0.5) @ root(0.5), A))
    True
    """
    if lower == 0 or upper == 0:
        raise ValueError(f"lower and upper must not be 0, got {lower} and {upper}")
    A = diagonal * np.eye(n) + lower * np.eye(n, k=-1) + upper * np.eye(n, k=1)
    k = np.arange(1, n + 1)
    h = np.pi / (n + 1)
    S = np.sqrt(2 / (n + 1)) * np.sin(h * k[:, None] * k)  # orthogonal and symmetric
    off = np.sqrt(complex(lower * upper))
    lam = diagonal + 2 * off * np.cos(h * k)
    d = lower / off  # = sqrt(lower/upper) with the branch that makes A = D (S lam S) D^{-1}

    def root(s: Any) -> Array:
        if np.any((lam.imag == 0) & (lam.real <= 0)):
            raise ValueError("no principal power: an eigenvalue is on the closed negative real axis")
        return np.asarray(((S * lam ** float(s)) @ S * d ** (k[:, None] - k)).real)

    return A, root


def wishart(
    n: int,
    samples: int,
    *,
    batch: tuple[int, ...] = (),
    dtype: DTypeLike = np.float64,
    rng: Seed = None,
) -> Array:
    """
    Return a sample covariance ``G G^H / samples`` of white Gaussian noise, G of shape (n, samples).

    The eigenvalues fill the Marchenko-Pastur interval ``(1 +- sqrt(n/samples))**2``; with fewer samples than n
    the matrix is singular, of rank `samples`.

    Parameters
    ----------
    n, samples : int
    batch, dtype, rng
        As for `spd`.

    Returns
    -------
    numpy.ndarray, shape (..., n, n), symmetric or Hermitian to the last bit

    Examples
    --------
    >>> import numpy as np
    >>> from matroot.gallery import wishart
    >>> int(np.linalg.matrix_rank(wishart(6, 4, rng=0)))
    4
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    rng = np.random.default_rng(rng)
    G = rng.standard_normal((*batch, n, samples))
    if np.dtype(dtype).kind == "c":
        G = (G + 1j * rng.standard_normal(G.shape)) / np.sqrt(2)
    C = G @ G.conj().mT / samples
    return np.asarray(((C + C.conj().mT) / 2).astype(dtype))
