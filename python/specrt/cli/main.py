"""The `specrt` command. Exit status: 0 done, 1 failed, 2 wrong arguments, 130 interrupted.

What keeps TensorRT-LLM from building has its own, 10 to 16 (`specrt.trtllm.preflight.Obstacle`).
"""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from specrt import Error, __version__
from specrt.build.errors import BuildError
from specrt.cli import bench, build, chat, demo, generate, inspect, train, tune

FAILED = 1
WRONG_ARGUMENTS = 2
INTERRUPTED = 130

_DESCRIPTION = "Generate text with speculative decoding: the same output, in less time."
_EPILOG = """examples:
  specrt demo
  specrt build MODEL --draft SMALL_MODEL -o BUNDLE
  specrt generate BUNDLE "Write a haiku about compilers."
  specrt chat BUNDLE

Wherever a BUNDLE is asked for, the word "demo" means the packaged demo models.
"""

# In the order of a first use.
_COMMANDS = {
    "demo": demo,
    "build": build,
    "generate": generate,
    "chat": chat,
    "bench": bench,
    "inspect": inspect,
    "tune": tune,
    "train": train,
}


class _Parser(argparse.ArgumentParser):
    """Reports a wrong argument in one line."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**options)

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_ARGUMENTS, f"specrt: error: {message} (see {self.prog} --help)\n")


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; `run` of its result is the command's function."""
    parser = _Parser(prog="specrt", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"specrt {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, module in _COMMANDS.items():
        command = commands.add_parser(name, help=module.HELP)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def _report(error: BaseException) -> None:
    text = " ".join(str(error).split()) or type(error).__name__
    print(f"specrt: error: {text}", file=sys.stderr)


def _warn(message: Warning | str, *_place: object, **_more: object) -> None:
    print(f"specrt: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _run(args: argparse.Namespace) -> int:
    status: int = args.run(args)
    sys.stdout.flush()
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit status."""
    args = make_parser().parse_args(argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            return _run(args)
    except KeyboardInterrupt:
        print("specrt: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read the output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except BuildError as error:
        _report(error)
        return error.status
    except (Error, OSError, MemoryError) as error:
        _report(error)
        return FAILED
    except ValueError as error:
        _report(error)
        return WRONG_ARGUMENTS


if __name__ == "__main__":
    sys.exit(main())
