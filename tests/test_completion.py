"""The completion of the command line, asked as a user asks: by the tab key of a shell that is there."""

import os
import re
import select
import shutil
import subprocess
import time

import pytest

from matroot.cli import command as cli
from matroot.cli.completion import SHELLS

pty = pytest.importorskip("pty")

STARTS = {
    "bash": (["bash", "--norc", "-i"], "source completion.bash"),
    "zsh": (["zsh", "-f", "-i"], "autoload -Uz compinit; compinit -u -D; source completion.zsh"),
}
#: What is typed before the tab, and the command that comes of it.
TYPED = {
    "ro": "root",
    "warm-up --back": "warm-up --background",
    "root --metho": "root --method",
    "root --method tri": "root --method tridiagonal",
    "root alp": "root alpha.npy",
    "root alpha.npy --status-out bet": "root alpha.npy --status-out beta.csv",
    "completion zs": "completion zsh",
}


def needs(shell):
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"no {shell} here")


@pytest.fixture
def folder(tmp_path, capsys):
    """Two files, the scripts, and a command ``matroot`` that says how it was called."""
    for shell in ("bash", "zsh", "fish"):
        assert cli.main(["completion", shell]) == 0
        (tmp_path / f"completion.{shell}").write_text(capsys.readouterr().out)
    (tmp_path / "alpha.npy").touch()
    (tmp_path / "beta.csv").touch()
    program = tmp_path / "bin" / "matroot"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "CALLED[$*]"\n')
    program.chmod(0o755)
    return tmp_path


class Terminal:
    """A shell on a terminal of its own."""

    def __init__(self, command, folder):
        environment = {**os.environ, "HOME": str(folder), "TERM": "dumb", "PATH": f"{folder}/bin:{os.environ['PATH']}"}
        self.end, theirs = os.openpty()
        self.shell = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env=environment, start_new_session=True
        )
        os.close(theirs)
        self.seen = ""

    def write(self, text):
        os.write(self.end, text.encode())

    def wait_for(self, pattern):
        """Read until the pattern comes, and return its group."""
        end = time.monotonic() + 60
        while (match := re.search(pattern, self.seen)) is None:
            assert time.monotonic() < end, self.seen
            if select.select([self.end], [], [], 0.1)[0]:
                self.seen += os.read(self.end, 65536).decode(errors="replace")
        self.seen = self.seen[match.end() :]
        return match[1]

    def close(self):
        self.shell.kill()
        self.shell.wait()
        os.close(self.end)


@pytest.mark.parametrize("shell", [pytest.param(name, marks=needs(name)) for name in STARTS])
def test_the_tab_key(shell, folder):
    command, start = STARTS[shell]
    terminal = Terminal(command, folder)
    try:
        terminal.write(f"{start}; PS1='TY''PE> '\n")  # in two parts, so that its echo is no prompt
        for typed, meant in TYPED.items():
            terminal.wait_for("(TYPE> )")
            terminal.write(f"matroot {typed}\t\n")
            assert terminal.wait_for(r"CALLED\[(.*?)\]") == meant
    finally:
        terminal.close()


@needs("fish")
def test_fish(folder):
    for typed, meant in TYPED.items():
        code = f"source completion.fish; complete -C 'matroot {typed}'"
        environment = {**os.environ, "HOME": str(folder), "PATH": f"{folder}/bin:{os.environ['PATH']}"}
        done = subprocess.run(
            ["fish", "--no-config", "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=True
        )
        offered = [line.partition("\t")[0] for line in done.stdout.splitlines()]
        assert meant.split()[-1] in offered and done.stderr == ""
        assert len(offered) == 1


class TestCompletion:
    @pytest.mark.parametrize("shell", SHELLS)
    def test_every_command_and_option_is_there(self, shell, capsys):
        assert cli.main(["completion", shell]) == 0
        said = capsys.readouterr().out
        for word in (*cli.COMMANDS, *("keep-going", "compute-dtype", "float64", "tridiagonal", "reset")):
            assert word in said

    @pytest.mark.skipif(shutil.which("bash") is None, reason="bash")
    @pytest.mark.parametrize(
        ("words", "offered"),
        [
            (["ro"], ["root"]),
            (["root", "a.npy", "--me"], ["--method"]),
            (["root", "a.npy", "--method", "tri"], ["tridiagonal"]),
            (["completion", ""], ["bash", "zsh", "fish"]),
            (["root", "a.npy", "-p", "2", "--pth-root", "--key", "a", "--ridge", "1", "-o", "x.npy"], []),
            (["compare", "a.npy", "--keep"], []),
        ],
        ids=" ".join,
    )
    def test_bash_offers_what_fits(self, words, offered, capsys):
        cli.main(["completion", "bash"])
        script = capsys.readouterr().out
        script += 'COMP_WORDS=(matroot "$@"); COMP_CWORD=$#; _matroot; printf "%s\\n" "${COMPREPLY[@]}"'
        done = subprocess.run(["bash", "-c", script, "bash", *words], capture_output=True, text=True, check=True)
        assert done.stdout.split() == offered and done.stderr == ""

    @pytest.mark.parametrize("shell", SHELLS)
    def test_the_shell_reads_it(self, shell, capsys):
        if shutil.which(shell) is None:
            pytest.skip(f"no {shell}")
        cli.main(["completion", shell])
        subprocess.run([shell, "-n"], input=capsys.readouterr().out, text=True, check=True)
