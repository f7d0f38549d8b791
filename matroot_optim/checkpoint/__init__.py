"""The state in files."""
