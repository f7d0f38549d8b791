"""The documentation: every public name has its place, and the examples run and are short."""

import ast
import importlib
import inspect
import json
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
EXAMPLES = sorted((DOCS / "examples").glob("*/*.py"))
PAGES = {
    "matroot": ("roots", "rectangular", "results", "methods", "regularization"),
    "matroot.gallery": ("gallery",),
    "matroot_optim": ("optimizer",),
    "matroot_optim.torch": ("torch",),
    "matroot_optim.optax": ("optax",),
}


def public(module):
    """Names of ``__all__``, or without one what the module itself defines."""
    home = module.__name__
    own = [name for name, x in vars(module).items() if name[0] != "_" and getattr(x, "__module__", "") == home]
    return getattr(module, "__all__", own)


@pytest.mark.parametrize("name", PAGES)
def test_every_public_name_is_in_the_reference(name):
    pytest.importorskip({"torch": "torch", "optax": "optax"}.get(name.rpartition(".")[2], "numpy"))
    module = importlib.import_module(name)
    text = "\n".join((DOCS / "reference" / f"{page}.rst").read_text() for page in PAGES[name])
    listed = {*re.findall(r"^   (\w+)$", text, re.M), *re.findall(r"^\.\. py:data:: (\w+)$", text, re.M)}
    names = set(public(module)) - {"gallery"}  # which has a page of its own
    assert names == listed, f"not in docs/reference: {names - listed}; not in {name}: {listed - names}"


@pytest.mark.parametrize("name", PAGES)
def test_every_public_name_has_a_docstring(name):
    pytest.importorskip({"torch": "torch", "optax": "optax"}.get(name.rpartition(".")[2], "numpy"))
    module = importlib.import_module(name)
    for public_name in public(module):
        thing = getattr(module, public_name)
        is_code = inspect.isroutine(thing) or inspect.isclass(thing)
        assert not is_code or (thing.__doc__ or "").strip(), public_name


@pytest.mark.parametrize("name", PAGES)
def test_docstrings_have_the_parameters_of_the_functions(name):
    validate = pytest.importorskip("numpydoc.validate").validate
    pytest.importorskip({"torch": "torch", "optax": "optax"}.get(name.rpartition(".")[2], "numpy"))
    module = importlib.import_module(name)
    wanted = {"GL07", "PR01", "PR02", "PR03", "PR10", "RT01"}  # sections, parameters and their order, what is returned
    listed = {"GL07", "PR03", "PR10"}  # of classes and methods, which may be one line, and pass options on
    errors = []
    for one in public(module):
        thing = getattr(module, one)
        if inspect.isfunction(thing):
            errors += [(one, *error) for error in validate(f"{name}.{one}")["errors"] if error[0] in wanted]
        elif inspect.isclass(thing):
            methods = [
                f"{one}.{key}" for key, value in vars(thing).items() if key[0] != "_" and inspect.isfunction(value)
            ]
            for each in (one, *methods):
                errors += [(each, *error) for error in validate(f"{name}.{each}")["errors"] if error[0] in listed]
    assert not errors


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short(path):
    code = path.read_text()
    title = ast.get_docstring(ast.parse(code)).splitlines()[:2]
    lines = [line for line in code.splitlines() if line.strip() and line[0] != "#"]
    assert len(title[0]) == len(title[1])
    assert len(lines) <= 60
    assert "plt.subplots" in code


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path, monkeypatch):
    plt = pytest.importorskip("matplotlib.pyplot")
    for name in re.findall(r"^import (torch|jax|optax)", path.read_text(), re.M):
        pytest.importorskip(name)
    monkeypatch.setattr(plt, "show", lambda: None)
    plt.switch_backend("agg")
    found = runpy.run_path(str(path))
    assert plt.get_fignums()
    plt.close("all")
    if "shampoo" in path.stem:
        assert found["accuracy"] > 0.85


def test_the_page_on_the_architecture_names_files_that_exist():
    text = (DOCS / "development" / "architecture.rst").read_text()
    tree = text[text.index("code-block:: text") :].split("\n\n")[1]
    folders = {}  # by how far they are indented
    for line in tree.splitlines():
        names, indent = re.findall(r"\w+(?:/|\.py)", line[:27]), len(line) - len(line.lstrip())
        folder = next((folders[at] for at in sorted(folders, reverse=True) if at < indent), ROOT)
        folders = {at: where for at, where in folders.items() if at < indent}
        for name in names:
            assert (folder / name).exists(), line
        folders[indent] = folder / names[0]
    for name in re.findall(r"[\w/]+\.(?:py|cu)", (DOCS / "development" / "flow.html").read_text()):
        assert (ROOT / "matroot" / name).exists(), name


def test_files_that_pages_name_exist():
    pages = [*DOCS.glob("*.rst"), *DOCS.glob("*/*.rst"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    names = r"(?<![\w/])(?:matroot|matroot_optim|tests|docs|asv_benchmarks|tools)/[\w/]+\.\w+"
    for page in pages:
        for name in re.findall(names, page.read_text()):
            assert (ROOT / name).exists(), f"{page.name}: {name}"


def rows(path):
    """Rows of the list-tables of a page, as their cells."""
    for row in re.split(r"^   \* - ", path.read_text(), flags=re.M)[1:]:
        yield [cell.strip() for cell in re.split(r"^     - ?", row.split("\n\n")[0], flags=re.M)]


WORKLOADS = {"translation": "AdamW", "language": "AdamW", "images": "SGD", "clicks": "Adagrad", "apps": "AdamW"}
#: The best method of first order is the value; names of the pages are not all those of the workloads.
LABELS = {"language": "language model", "clicks": "click-through", "apps": "users and apps"}


@pytest.mark.parametrize("workload", WORKLOADS)
def test_training_figures_that_stand_twice_agree(workload):
    """`docs/performance/tables` are written by a command; the pages repeat some of their figures."""
    measured = {row[0].strip("*"): row for row in rows(DOCS / "performance" / "tables" / f"{workload}.rst")}
    first, ours = measured[WORKLOADS[workload]], measured["Shampoo"]
    seconds = json.loads((ROOT / "asv_benchmarks" / "training" / "results" / "small.seconds.json").read_text())
    cost, gain = (row for row in rows(DOCS / "guide" / "from_adamw.rst") if row[0] == workload)
    own = [float(measured[name][5]) for name in ("AdamW", "Shampoo")]
    assert [float(x) for x in cost[2:]] == own
    assert float(cost[1]) == pytest.approx(seconds[workload]["gradient_ms"], rel=0.01)
    steps, time = [one[2].split()[0] for one in (first, ours)], [one[3] for one in (first, ours)]
    assert gain[1:] == [WORKLOADS[workload], *steps, *time]
    (row,) = (row for row in rows(DOCS / "performance" / "training.rst") if row[0] == LABELS.get(workload, workload))
    assert row[1:3] == [f"{steps[0]} ({WORKLOADS[workload]})", steps[1]]


class Names(ast.NodeVisitor):
    """Names that code imports, binds otherwise, and reads before it binds them."""

    def __init__(self):
        self.imported, self.bound, self.free = set(), set(), set()

    def visit_Import(self, node):
        self.imported |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}

    def visit_ImportFrom(self, node):
        self.visit_Import(node)

    def visit_Name(self, node):
        if isinstance(node.ctx, ast.Store):
            self.bound.add(node.id)
        elif node.id not in self.imported:
            self.free.add(node.id)


@pytest.mark.parametrize("page", ["from_adamw", "family", "optimizer"])
def test_examples_can_be_copied_alone(page):
    """What an example takes from an import is imported in it: of two on a page, `Shampoo` may be the other one."""
    text = (DOCS / "guide" / f"{page}.rst").read_text()
    before = set()
    for block in re.findall(r"(?:^(?:>>>|\.\.\.|(?!\n)).*\n)*?^>>> (?:.*\n(?!\n))*.*\n", text, re.M):
        code = "\n".join(line[4:] for line in block.splitlines() if line[:4] in (">>> ", "... "))
        names = Names()
        names.visit(ast.parse(code))
        assert not names.free & before, code
        before |= names.imported
