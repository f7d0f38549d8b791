"""The house: imports point one way and bring nothing along, and what the documents promise is there."""

import ast
import graphlib
import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import matroot

ROOT = Path(__file__).parents[1]

# A module may import from its own floor and from those below it, inside functions too. A module without an entry has
# the floor of its folder.
FLOORS = {
    "matroot": (
        {"matroot.gallery", "matroot._bars", "matroot._status"},
        {"matroot._regularization", "matroot._result", "matroot.backends"},
        {"matroot.methods"},
        {"matroot.pipeline"},
        {"matroot.autodiff"},
        {"matroot.drift", "matroot._selection"},
        {"matroot._solve"},
        {"matroot.rectangular", "matroot.applied"},
        {
            *("matroot._roots", "matroot._solve_each", "matroot._apply", "matroot._rectangular", "matroot._stochastic"),
            "matroot.autodiff.frechet",
            *("matroot._root_tracker", "matroot._condition_tracker"),
        },
        {"matroot"},
        {"matroot.cli"},
        {"matroot.demo"},
        {"matroot.cli.demo"},
        {"matroot.__main__"},
    ),
    "matroot_optim": (
        {
            "matroot_optim.arrays",
            "matroot_optim.names",
            "matroot_optim.rules",
            "matroot_optim.paths",
            "matroot_optim.allowed",
            "matroot_optim.callbacks",
            "matroot_optim.checkpoint.replacing",
        },
        {"matroot_optim.options", "matroot_optim.layout.trees", "matroot_optim.layout.blocking"},
        {"matroot_optim.layout", "matroot_optim.presets"},
        {"matroot_optim.step"},
        {"matroot_optim.refresh"},
        {"matroot_optim.ranks"},
        {"matroot_optim.entries", "matroot_optim.plan"},
        {"matroot_optim.refresh.due", "matroot_optim.refresh.install"},
        {"matroot_optim.checkpoint"},
        {"matroot_optim.state"},
        {"matroot_optim.diagnostics"},
        {"matroot_optim.shampoo"},
        {"matroot_optim.soap", "matroot_optim.kl_shampoo"},
        {"matroot_optim.jit", "matroot_optim._torch", "matroot_optim._optax"},
        {"matroot_optim", "matroot_optim.torch", "matroot_optim.optax"},
        {"matroot_optim.demo", "matroot_optim.planning"},
        {"matroot_optim.__main__"},
    ),
}


def floor(module):
    """Number of the floor of a module, by its longest prefix that has one."""
    floors = FLOORS[module.partition(".")[0]]
    numbers = {name: number for number, names in enumerate(floors) for name in names}
    while module not in numbers:
        module = module.rpartition(".")[0]
    return numbers[module]


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def code_lines(path):
    """Lines without docstrings: public ones are as long as they have to be."""
    text = path.read_text()
    docs = 0
    for node in ast.walk(ast.parse(text)):
        first = getattr(node, "body", None)
        if isinstance(first, list) and first and isinstance(first[0], ast.Expr):
            value = first[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                docs += value.end_lineno - value.lineno + 1
    return len(text.splitlines()) - docs


def modules(package):
    return sorted(p for p in (ROOT / package).rglob("*.py") if "__pycache__" not in p.parts)


MODULES = {name_of(path): path for package in FLOORS for path in modules(package)}


def imports(path):
    """Modules that a file imports, at once, in a function or by `deferred`, and the names that it takes of them."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield (full, None) if full in MODULES else (node.module, alias.name)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "deferred":
            if isinstance(node.args[0], ast.Constant):
                yield node.args[0].value, None


def test_every_entry_of_the_floors_is_a_module():
    entries = [name for floors in FLOORS.values() for names in floors for name in names]
    assert len(entries) == len(set(entries))
    assert set(entries) <= set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    for theirs, name in imports(MODULES[module]):
        assert not (module.startswith("matroot.") and theirs.startswith("matroot_optim")), theirs
        if theirs in MODULES and theirs.partition(".")[0] == module.partition(".")[0]:
            assert floor(theirs) <= floor(module), f"{module} imports {theirs}"
        if theirs in MODULES and name is not None:
            assert not name.startswith("_") or name.startswith("__"), f"{module} imports the private {theirs}.{name}"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_uses_no_private_attribute_of_another(module):
    tree = ast.parse(MODULES[module].read_text())
    theirs = {full.rpartition(".")[2] for full, name in imports(MODULES[module]) if full in MODULES and name is None}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in theirs:
            assert not node.attr.startswith("_") or node.attr.startswith("__"), f"{module} uses {ast.unparse(node)}"


def test_there_is_no_circle():
    graph = {m: {theirs for theirs, _ in imports(path) if theirs in MODULES} - {m} for m, path in MODULES.items()}
    graph = {m: {t for t in found if not m.startswith(f"{t}.")} for m, found in graph.items()}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises a CycleError that names it


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("matroot_optim")])
def test_the_optimizer_sees_only_public_names(module):
    demo = {("matroot.demo.network", None)} if module.startswith("matroot_optim.demo") else set()
    for theirs, name in set(imports(MODULES[module])) - demo:  # both demonstrations train the same network
        if theirs.partition(".")[0] == "matroot":
            assert theirs in ("matroot", "matroot.gallery"), f"{module} imports {theirs}"
            assert name is None or name in matroot.__all__, f"{module} imports {name}"
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "matroot":
            assert node.attr in matroot.__all__, f"{module} uses matroot.{node.attr}"


def test_no_module_hides_behind_a_public_name():
    """`import matroot.solve` must not be a module where `matroot.solve` is a function; and the rest is private."""
    assert {m.partition(".")[2] for m in MODULES if m.count(".") == 1} & set(matroot.__all__) == {"gallery"}
    assert dir(matroot) == sorted({*matroot.__all__, "__version__"})
    assert len(list((ROOT / "matroot").glob("*.py"))) <= 15


@pytest.mark.parametrize("method", ("auto", "eigen", "coupled_newton", "minimax"))
def test_a_matrix_passes_few_files(method):
    """From `inverse_pth_root` to the method; a file counts where a function of it is given the matrix."""
    A = np.diag(np.linspace(1, 2, 60))
    matroot.inverse_pth_root(A, 4, method=method)  # what is planned and imported is kept
    files = []

    def look(frame, event, _):
        path = Path(frame.f_code.co_filename)
        given = any(isinstance(value, np.ndarray) and value.shape[-2:] == A.shape for value in frame.f_locals.values())
        if event == "call" and given and path.is_relative_to(ROOT / "matroot"):
            files.append(path.name)
            if path.parent.name == "methods" and frame.f_code.co_name in ("run", "roots"):
                sys.setprofile(None)

    sys.setprofile(look)
    try:
        matroot.inverse_pth_root(A, 4, method=method)
    finally:
        sys.setprofile(None)
    way = list(dict.fromkeys(files))
    assert way[:2] == ["_roots.py", "_solve.py"]
    assert len(way) <= 11, way  # and one more for the kernel


def test_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == matroot.__version__
    version = re.escape(matroot.__version__)
    assert re.search(rf"^## {version}", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert re.search(rf"^version: {version}$", (ROOT / "CITATION.cff").read_text(), re.M)


def test_files_stay_small():
    for path in (*modules("matroot"), *modules("matroot_optim")):
        assert code_lines(path) <= 300, f"{path.relative_to(ROOT)} holds two ideas"


OPENINGS = ("What", "Whether", "Where", "Who", "Which", "How", "When")


@pytest.mark.parametrize("module", MODULES)
def test_no_docstring_opens_with_a_question_word(module):
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            words = (ast.get_docstring(node) or "").split()
            assert not words or words[0] not in OPENINGS, f"{module}: {' '.join(words[:8])}"


class TestReadme:
    text = (ROOT / "README.md").read_text()

    def test_the_two_commands_are_there(self):
        for command in (
            'python -m pip install ".[demo]" && python -m matroot demo',
            'python -m pip install ".[test]" && python -m pytest',
        ):
            assert command in self.text

    def test_links_and_pictures_exist(self):
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)\)", self.text):
            assert (ROOT / target).exists(), target


@pytest.mark.parametrize("extra", ("cuda12", "cuda13", "torch", "jax", "plot", "demo", "test", "bench", "docs"))
def test_extras_are_declared(extra):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"][extra]
