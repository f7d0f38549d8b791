"""The command ``matroot``: roots of matrices in files, a comparison of methods, and a demonstration."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

import matroot
from matroot.cli.problem import in_options

#: Command, one line of help, and the module with its ``arguments(parser)`` and ``run(options) -> int``.
COMMANDS = {
    "root": ("the root of the matrices of a file", "matroot.cli.root"),
    "compare": ("every method, numpy and SciPy, side by side", "matroot.cli.compare"),
    "info": ("facts of a file's matrices; without a file, of this machine", "matroot.cli.info"),
    "tune": ('measure which method is fastest where, for "auto"', "matroot.cli.tune"),
    "warm-up": ("compile the kernels now, and not at the first root", "matroot.cli.warm_up"),
    "completion": ("completion for bash, zsh and fish", "matroot.cli.completion"),
    "demo": ("real data: a network's statistics, pixels, rating transitions", "matroot.cli.demo"),
}
STATUS = """\
exit status:
  0  done
  1  the work failed; no root was written
  2  the command line was wrong
  3  some matrices have no root; the others were written (root --keep-going)
"""
EXAMPLES = """\
examples:
  matroot info covariance.npy
  matroot root covariance.npy -p 2 --ridge 1e-8 -o whitening.npy
  matroot compare covariance.npy -p 4
  matroot root --help
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, that of the process if `argv` is None; ``matroot --help`` lists the exit statuses."""
    parser = _parser()
    if not (sys.argv[1:] if argv is None else argv):
        parser.print_help(sys.stderr)
        parser.exit(2)
    options, rest = parser.parse_known_args(argv)
    options.rest = rest
    if rest and not options.passes_on:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return int(options.run(options))
    except BrokenPipeError:  # the reader of the output has ended, as `head` does
        sys.stdout = open(os.devnull, "w")
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"matroot: error: {in_options(str(error))}", file=sys.stderr)
    except MemoryError as error:
        print(f"matroot: error: not enough memory: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("matroot: interrupted", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="matroot",
        description="Roots of matrices, and how good each of them is.",
        epilog=f"{EXAMPLES}\n{STATUS}",
        formatter_class=plain,
    )
    parser.add_argument("--version", action="version", version=f"matroot {matroot.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    made: dict[str, tuple[str, argparse.ArgumentParser]] = {}
    for name, (summary, module_name) in COMMANDS.items():
        module = import_module(module_name)
        passes_on = name == "demo"  # the demo parses its arguments itself, --help too
        epilog = f"{module.EXAMPLES}\n{STATUS}" if hasattr(module, "EXAMPLES") else STATUS
        command = commands.add_parser(
            name,
            help=summary,
            description=module.__doc__,
            epilog=epilog,
            formatter_class=plain,
            add_help=not passes_on,
        )
        module.arguments(command)
        made[name] = summary, command
        command.set_defaults(run=module.run, passes_on=passes_on, commands=made)
    return parser
