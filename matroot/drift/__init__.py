"""Roots of a matrix that changes."""
