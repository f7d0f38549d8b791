"""The command that makes a release: the version in every place, once, and what the packages must hold."""

import importlib.util
import shutil
import zipfile
from datetime import date
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def release():
    path = ROOT / "tools" / "release.py"
    if not path.exists():
        pytest.skip("not in a checkout")
    spec = importlib.util.spec_from_file_location("release", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def copy(tmp_path):
    for name in ("pyproject.toml", "matroot/__init__.py", "CITATION.cff", "CHANGELOG.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    text = (tmp_path / "CHANGELOG.md").read_text()
    (tmp_path / "CHANGELOG.md").write_text(text.replace("\n## ", "\n## 9.8.7 (unreleased)\n\n- All.\n\n## ", 1))
    return tmp_path


def test_the_version_is_set_everywhere(release, copy):
    release.set_version(copy, "9.8.7", date(2027, 1, 2))
    found = {name: (copy / name).read_text() for name, *_ in release.PLACES}
    assert 'version = "9.8.7"\n' in found["pyproject.toml"]
    assert '__version__ = "9.8.7"\n' in found["matroot/__init__.py"]
    assert "\nversion: 9.8.7\n" in found["CITATION.cff"] and "date-released: 2027-01-02" in found["CITATION.cff"]
    assert "\n## 9.8.7 (2027-01-02)\n" in found["CHANGELOG.md"]


@pytest.mark.parametrize(("version", "says"), [("9.8", "is no version"), ("9.8.8", "CHANGELOG.md has 0 lines")])
def test_what_is_missing_stops_it(release, copy, version, says):
    with pytest.raises(SystemExit, match=says):
        release.set_version(copy, version, date(2027, 1, 2))


def test_a_wheel_with_tests_in_it_is_refused(release, tmp_path):
    sdist = tmp_path / "matroot-9.8.7.tar.gz"
    with release.tarfile.open(sdist, "w:gz") as archive:
        for name in ("CHANGELOG.md", "tests", "docs"):
            archive.add(ROOT / "CHANGELOG.md", f"matroot-9.8.7/{name}")
    wheel = tmp_path / "matroot-9.8.7-py3-none-any.whl"
    for extra, says in ((["a.cu"], r"wrong|not expected.*tests/a.py"), ([], "missing: ")):
        with zipfile.ZipFile(wheel, "w") as archive:
            for name in (*release.WANTED, "matroot-9.8.7.dist-info/METADATA", "tests/a.py", *extra):
                archive.writestr(name, "")
        with pytest.raises(SystemExit, match=says):
            release.check([sdist, wheel])
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in (*release.WANTED, "matroot/backends/cuda/a.cu", "matroot-9.8.7.dist-info/METADATA"):
            archive.writestr(name, "")
    release.check([sdist, wheel])
