"""One certified solve of a stack, on the CPU and on a GPU."""
