"""The compiled kernels of `methods.tridiagonal_derivative`."""
