"""The computations of a step on gradients and roots."""
