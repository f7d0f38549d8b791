"""The .rst files are doctests; the Python files here are not."""

collect_ignore_glob = ["conf.py", "examples/*", "_build/*"]
