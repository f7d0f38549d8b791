"""The compiled kernel of `methods.tridiagonal`."""
