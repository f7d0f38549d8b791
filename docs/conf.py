"""Sphinx: ``python -m sphinx -W docs docs/_build``."""

import matroot

project = "matroot"
author = "the matroot authors"
copyright = f"2026, {author}"
release = version = matroot.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "examples", "measured.rst"]
default_role = "py:obj"
math_number_all = False
math_eqref_format = "({number})"

autosummary_generate = True
autodoc_typehints = "none"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

copybutton_exclude = ".linenos, .gp, .go"

html_theme = "pydata_sphinx_theme"
html_title = "matroot"
html_static_path = ["_static"]
html_theme_options = {
    "navbar_end": ["theme-switcher"],
    "navbar_persistent": ["search-button"],
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
}
html_sidebars = {"**": []}
