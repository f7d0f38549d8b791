"""The compiled kernel of `methods.tridiagonal_large`, on LAPACK and BLAS by address."""
