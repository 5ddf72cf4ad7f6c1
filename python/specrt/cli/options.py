"""Arguments that several commands share."""

import argparse
from pathlib import Path

from specrt.bundle import Bundle, open_bundle
from specrt.demo import DEMO, bundle_path
from specrt.methods import METHODS


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """Adds the bundle, the first argument of most commands."""
    parser.add_argument("bundle", metavar="BUNDLE", help='folder made by `specrt build`, or "demo"')


def named_bundle(word: str) -> Bundle:
    """Opens the bundle that a command line names; builds the demo's if need be."""
    return open_bundle(bundle_path(progress=True) if word == DEMO else Path(word))


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Adds --threads."""
    parser.add_argument("--threads", type=count, metavar="N", help="cores to use (default: all)")


def add_drafting(parser: argparse.ArgumentParser) -> None:
    """Adds --num-speculative-tokens."""
    parser.add_argument(
        "--num-speculative-tokens",
        type=count,
        metavar="K",
        help="tokens drafted in every round (default: as many as should pay)",
    )


def add_method(parser: argparse.ArgumentParser) -> None:
    """Adds --method."""
    parser.add_argument(
        "--method",
        default="auto",
        metavar="NAME",
        help=f"{', '.join(METHODS)}; the output is the same (default: %(default)s)",
    )


def count(text: str) -> int:
    """An integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value
