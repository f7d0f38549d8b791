"""Print the completion of ``matroot`` for a shell."""

from __future__ import annotations

import argparse
from typing import NamedTuple

SHELLS = ("bash", "zsh", "fish")
EXAMPLES = """\
examples:
  source <(matroot completion bash)                                     in ~/.bashrc
  source <(matroot completion zsh)                                      in ~/.zshrc, after compinit
  matroot completion fish > ~/.config/fish/completions/matroot.fish
"""
#: Names of values that are files; a shell completes those by itself.
FILES = ("FILE", "OUT", "TABLE")

BASH = """\
_matroot() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} command=${{COMP_WORDS[1]}} words=
    case "$COMP_CWORD $command $before $word" in
    1\\ *) words="{commands}" ;;
{cases}
    esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _matroot matroot
"""


class Option(NamedTuple):
    """An option of a command, or its positional argument, which has no name."""

    names: list[str]
    takes: bool
    is_file: bool
    choices: str
    help: str


def arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments of ``matroot completion``."""
    parser.add_argument("shell", choices=SHELLS, help="the shell to complete in")


def run(options: argparse.Namespace) -> int:
    """Print the script."""
    print(script(options.shell, options.commands), end="")
    return 0


def script(shell: str, commands: dict[str, tuple[str, argparse.ArgumentParser]]) -> str:
    """Return the script for a shell, given the help and the parser of every command."""
    found = {name: [described(action) for action in parser._actions] for name, (_, parser) in commands.items()}
    if shell == "fish":
        lines = [
            "complete -c matroot -n __fish_use_subcommand -f",
            *(
                f"complete -c matroot -n __fish_use_subcommand -a {c} -d {_quoted(text)}"
                for c, (text, _) in commands.items()
            ),
            *(_fish(command, option) for command, options in found.items() for option in options),
        ]
        return "\n".join(lines) + "\n"
    cases = []
    for command, options in found.items():
        for option in options:
            before = option.names or [command]
            cases += [f'    *" {command} {name} "*) words="{option.choices}" ;;' for name in before if option.choices]
        names = " ".join(name for option in options for name in option.names)
        cases.append(f'    *" {command} "*" -"*) words="{names}" ;;')
    text = BASH.format(commands=" ".join([*found, "--help", "--version"]), cases="\n".join(cases))
    return text if shell == "bash" else f"autoload -Uz bashcompinit && bashcompinit\n{text}"


def described(action: argparse.Action) -> Option:
    """Return what a shell must know of an argument."""
    choices = " ".join(map(str, action.choices or ()))
    takes = action.nargs != 0
    return Option(list(action.option_strings), takes, action.metavar in FILES, choices, action.help or "")


def _fish(command: str, option: Option) -> str:
    names = "".join(f" -l {n[2:]}" if n.startswith("--") else f" -s {n[1:]}" for n in option.names)
    choices = f" -a {_quoted(option.choices)}" if option.choices else ""
    takes = "" if not option.takes else " -r -F" if option.is_file else " -x" if option.names else " -f"
    condition = f"'__fish_seen_subcommand_from {command}'"
    return f"complete -c matroot -n {condition}{names}{takes}{choices} -d {_quoted(option.help)}"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
