"""The processes of one run: what an engine asks of them, under torch, MPI, JAX and alone, and owners of blocks."""
