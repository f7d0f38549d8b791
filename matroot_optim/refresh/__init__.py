"""When roots are renewed, and where."""
