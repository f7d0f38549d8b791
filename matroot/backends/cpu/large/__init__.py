"""The compiled kernel of `methods.tridiagonal_large`, by tiles, and on LAPACK and BLAS by address."""
