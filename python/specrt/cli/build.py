"""specrt build: the command line of `specrt.build`."""

import argparse

from specrt.build.command import add_build_arguments, run_build

HELP = "compile a Hugging Face model, and a draft model, into a bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_build_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Builds."""
    return run_build(args)
