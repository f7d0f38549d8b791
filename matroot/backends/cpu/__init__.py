"""The CPU: BLAS and LAPACK, threads, compiled kernels."""
