"""The house: imports point one way and bring nothing along, and what the documents promise is there."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import matroot

ROOT = Path(__file__).parents[1]
HEAVY = ("numba", "cupy", "torch", "jax", "matplotlib", "scipy", "pandas")

# A module may import from its own layer and from those before it.
LAYERS = (
    {"result", "engines.arrays", "methods.base", "gallery", "atomic", "files_mtx", "files_read", "files"},
    {"regularization", "conditioning", "schedules", "engines"},
    {"methods"},
    {"selection"},
    {"solve"},
    {"roots"},
)
DEPTH = {name: depth for depth, names in enumerate(LAYERS) for name in names}


def depth(module):
    """Layer of a module of matroot, by its longest prefix that has one; None where there is no order."""
    parts = module.split(".")
    prefixes = (".".join(parts[:k]) for k in range(len(parts), 0, -1))
    return next((DEPTH[prefix] for prefix in prefixes if prefix in DEPTH), None)


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


def imports(path):
    """Full names of what a file imports when it is imported, not what only type checkers or calls see."""
    body = list(ast.parse(path.read_text()).body)
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Try) or (isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.dump(node.test)):
            body += node.body


@pytest.mark.parametrize("path", modules("matroot"), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
    own = depth(".".join(path.relative_to(ROOT / "matroot").with_suffix("").parts))
    for name in imports(path):
        package, _, module = name.partition(".")
        assert package != "matroot_optim", f"{path.name} imports {name}"
        theirs = depth(module) if package == "matroot" else None
        assert own is None or theirs is None or theirs <= own, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", modules("matroot_optim"), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_optimizer_sees_only_public_names(path):
    public = {*matroot.__all__}
    if path.name.startswith("demo"):
        public.add("demo_network")  # both demonstrations train the same network
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "matroot":
            assert node.module == "matroot", f"{path.name} imports from {node.module}"
            assert {alias.name for alias in node.names} <= public, ast.unparse(node)
        elif isinstance(node, ast.Import):
            assert not any(alias.name.startswith("matroot.") for alias in node.names), ast.unparse(node)


@pytest.mark.parametrize("module", ("matroot", "matroot.cli", "matroot_optim"))
def test_import_brings_nothing_along(module):
    code = f"import sys, {module}; print([m for m in {HEAVY} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert run.stdout.strip() == "[]"


def test_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == matroot.__version__
    version = re.escape(matroot.__version__)
    assert re.search(rf"^## {version}", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert re.search(rf"^version: {version}$", (ROOT / "CITATION.cff").read_text(), re.M)


def test_files_stay_small():
    for path in (*modules("matroot"), *modules("matroot_optim")):
        assert code_lines(path) <= 300, f"{path.relative_to(ROOT)} holds two ideas"


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
