"""specrt tune: measures step times on this machine and stores them in the bundle."""

import argparse
import sys

from specrt.bundle import open_bundle
from specrt.cli.inspect import curve_lines
from specrt.cli.options import add_bundle, add_threads, named_bundle

HELP = "measure a bundle on this machine"
_DESCRIPTION = """\
Measures how long steps of the target and the draft model take by their rows, and how fast every
method decodes a few prompts, and stores that in the bundle's manifest. Draft lengths and the method
"auto" follow from it. Building does this already; do it again on another machine, or for another
number of threads."""
_EPILOG = """example:
  %(prog)s demo
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    add_bundle(parser)
    add_threads(parser)


def run(args: argparse.Namespace) -> int:
    """Measures, and prints what follows."""
    from specrt.eval.curves import tune

    bundle = named_bundle(args.bundle)
    tune(bundle.path, args.threads, progress=sys.stderr.isatty())
    print("\n".join(curve_lines(open_bundle(bundle.path))))
    return 0
