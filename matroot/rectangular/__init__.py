"""Functions of rectangular matrices through their singular values."""
