"""How parameters are seen: trees, matrices, blocks and stacks."""
