"""CUDA devices; imported with the first GPU array."""
