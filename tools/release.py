"""Everything of a release before the upload: ``python tools/release.py VERSION``, or ``--dry`` to leave no trace.

Sets the version, dates the changelog, builds the wheel and the sdist, checks both, commits and tags. A dry run does the
same in a clone. ``pip install build twine`` first.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from datetime import date
from pathlib import Path

#: File, pattern of its one line with the version, and the line.
PLACES = (
    ("pyproject.toml", r'^version = ".*"$', 'version = "{version}"'),
    ("matroot/__init__.py", r'^__version__ = ".*"$', '__version__ = "{version}"'),
    ("CITATION.cff", r"^version: .*(\ndate-released: .*)?$", "version: {version}\ndate-released: {day}"),
    ("CHANGELOG.md", r"^## {version} \(.*\)$", "## {version} ({day})"),
)
#: Who commits in a dry run.
DRY = ("-c", "user.name=dry", "-c", "user.email=dry@localhost")
WANTED = (
    *("matroot/__init__.py", "matroot/__init__.pyi", "matroot/py.typed"),
    *("matroot_optim/__init__.py", "matroot_optim/py.typed"),
)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", nargs="?", help="the version to release (default: that of pyproject.toml)")
    parser.add_argument("--dry", action="store_true", help="work in a clone, and leave nothing but the packages")
    parser.add_argument("--out", type=Path, default=Path("dist"), help="folder of the packages (dist)")
    options = parser.parse_args()
    root = Path(__file__).resolve().parents[1]
    version = options.version or re.search(r'^version = "(.*)"$', (root / "pyproject.toml").read_text(), re.M)[1]
    out = options.out.resolve()
    if options.dry:
        with tempfile.TemporaryDirectory() as folder:
            run("git", "clone", "-q", "--no-tags", str(root), folder)
            release(Path(folder), version, out, DRY)
        print(f"Dry run: {version} could be released. Packages of it are in {out}")
        return
    if changes := run("git", "-C", str(root), "status", "--porcelain"):
        sys.exit(f"there are changes that are not committed:\n{changes}")
    release(root, version, out)
    print(f"Look at {out}, then:\n  git push --follow-tags\n  python -m twine upload {out}/*")


def release(root: Path, version: str, out: Path, settings: tuple[str, ...] = ()) -> None:
    """Set the version in the repository at `root`, build, check, commit and tag."""
    if run("git", "-C", str(root), "tag", "--list", f"v{version}"):
        sys.exit(f"v{version} is a tag already")
    set_version(root, version, date.today())
    run(sys.executable, "-m", "build", "--outdir", str(out), str(root))
    packages = sorted(out.glob(f"matroot-{version}*"))
    run(sys.executable, "-m", "twine", "check", "--strict", *map(str, packages))
    check(packages)
    git = ("git", "-C", str(root), *settings)
    if run(*git, "status", "--porcelain", "--untracked-files=no"):
        run(*git, "commit", "-qam", f"Version {version}")
    run(*git, "tag", "-a", f"v{version}", "-m", f"Version {version}")


def set_version(root: Path, version: str, day: date) -> None:
    """Write the version and the day into every place that has one."""
    if not re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", version):
        sys.exit(f"{version!r} is no version such as 1.2.3 or 1.2.3rc1")
    changed: dict[Path, str] = {}
    for name, pattern, line in PLACES:
        path, pattern = root / name, pattern.replace("{version}", re.escape(version))
        changed[path], count = re.subn(pattern, line.format(version=version, day=day), path.read_text(), flags=re.M)
        if count != 1:
            sys.exit(f"{name} has {count} lines that match {pattern}, one is wanted")
    for path, text in changed.items():
        path.write_text(text)


def check(packages: list[Path]) -> None:
    """Look at what is in the wheel and the sdist."""
    wheels, sdists = ([p for p in packages if p.name.endswith(end)] for end in (".whl", ".tar.gz"))
    if len(wheels) != 1 or len(sdists) != 1:
        sys.exit(f"one wheel and one sdist are wanted, got {[p.name for p in packages]}")
    with zipfile.ZipFile(wheels[0]) as wheel, tarfile.open(sdists[0]) as sdist:
        inside, source = wheel.namelist(), sdist.getnames()
    missing = [name for name in WANTED if name not in inside]
    missing += [name for name in ("CHANGELOG.md", "tests", "docs") if not any(f"/{name}" in s for s in source)]
    wrong = [
        name for name in inside if name.split("/")[0] not in ("matroot", "matroot_optim") and ".dist-info" not in name
    ]
    if missing or wrong or not any(name.endswith(".cu") for name in inside):
        sys.exit(f"missing: {missing}; not expected in the wheel: {wrong}")


def run(*command: str) -> str:
    """Return the output of a command; exit with what it said if it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
