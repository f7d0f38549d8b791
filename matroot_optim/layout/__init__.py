"""The layout of parameters: trees, matrices, blocks and stacks."""
