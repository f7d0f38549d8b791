"""Owned blocks: each rank keeps the statistics, the roots and the moments of a part of the blocks."""
