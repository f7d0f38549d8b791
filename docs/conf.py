"""Sphinx: ``python -m sphinx -W docs docs/_build``. A build needs no network."""

import re

from docutils.nodes import SkipNode
from latex2mathml.converter import convert

import matroot

project = "matroot"
author = "the matroot authors"
copyright = f"2026, {author}"
release = version = matroot.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx_gallery.gen_gallery",
    "numpydoc",
    "notfound.extension",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "development/measured.rst", "performance/tables/**", "examples/**"]
templates_path = ["_templates"]
default_role = "py:obj"
html_math_renderer = "mathml"
math_number_all = False
math_eqref_format = "({number})"

autosummary_generate = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

# Names of other projects that these pages link to. The inventories are here, so that a build needs no network.
intersphinx_mapping = {
    "python": ("https://docs.python.org/3/", "_inventories/python.txt"),
    "numpy": ("https://numpy.org/doc/stable/", "_inventories/numpy.txt"),
    "scipy": ("https://docs.scipy.org/doc/scipy/", "_inventories/scipy.txt"),
    "torch": ("https://docs.pytorch.org/docs/stable/", "_inventories/torch.txt"),
}

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "filename_pattern": "/",
    "within_subsection_order": "FileNameSortKey",
    "subsection_order": ["examples/roots", "examples/optimizer"],
    "reset_modules": ("matplotlib",),
    "capture_repr": (),
    "abort_on_example_error": True,
    "remove_config_comments": True,
    "show_signature": False,
    "min_reported_time": 1e9,
    "write_computation_times": False,
    "download_all_examples": False,
    "reference_url": {"matroot": None, "matroot_optim": None},
    "doc_module": ("matroot", "matroot_optim"),
    "backreferences_dir": "reference/backreferences",
}

copybutton_exclude = ".linenos, .gp, .go"

html_theme = "pydata_sphinx_theme"  # that of numpy, scipy and pandas, whose people maintain it
html_title = "matroot"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_logo = html_favicon = "_static/icon.svg"
html_context = {"default_mode": "auto"}
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "matroot"},
    "navbar_end": ["theme-switcher"],
    "navbar_persistent": ["search-button"],
    "header_links_before_dropdown": 8,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {name: [] for name in ("index", "install", "quickstart", "theory", "limits", "changelog", "404")}

notfound_urls_prefix = "/"


def changelog(app, relative_path, parent_docname, content):
    """Turn the Markdown of CHANGELOG.md, of which it uses five forms, into reStructuredText."""
    if relative_path.name == "CHANGELOG.md":
        text = re.sub(r"`([^`\n]+)`", r"``\1``", content[0])
        text = re.sub(r"\[([^]]+)\]\(([^)]+)\)", r"`\1 <\2>`__", text)
        for mark, line in (("###", "~"), ("##", "-"), ("#", "=")):
            text = re.sub(rf"^{mark} (.+)$", lambda m, line=line: f"{m[1]}\n{line * len(m[1])}", text, flags=re.M)
        content[0] = text


def formula(translator, node):
    """Write a formula of a line as MathML, which browsers show without a script and without a network."""
    translator.body.append(convert(node.astext()))
    raise SkipNode


def displayed(translator, node):
    """Write a displayed formula, with its number if it has one."""
    translator.body.append(translator.starttag(node, "div", CLASS="math"))
    translator.body.append(convert(node.astext(), display="block"))
    if node["number"]:
        translator.body.append(f'<span class="eqno">({node["number"]})')
        translator.add_permalink_ref(node, "Link to this equation")
        translator.body.append("</span>")
    translator.body.append("</div>")
    raise SkipNode


def setup(app):
    app.connect("include-read", changelog)
    app.add_html_math_renderer("mathml", (formula, None), (displayed, None))
