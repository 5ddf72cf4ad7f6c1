"""Arguments that several commands share."""

import argparse
from pathlib import Path

from specrt.bundle import Bundle, open_bundle
from specrt.demo import DEMO, bundle_path
from specrt.methods import METHODS, RULES, Pace
from specrt.sampling_params import SamplingParams

_SLOWEST_MS = 60_000.0
_UNLIMITED = 2**31 - 1  # tokens; the context ends before


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """Adds the bundle, the first argument of most commands."""
    parser.add_argument("bundle", metavar="BUNDLE", help='folder made by `specrt build`, or "demo"')


def named_bundle(word: str) -> Bundle:
    """Opens the bundle that a command line names; builds the demo's if need be."""
    return open_bundle(bundle_path(progress=True) if word == DEMO else Path(word))


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Adds --threads."""
    parser.add_argument("--threads", type=count, metavar="N", help="cores to use (default: all)")


def pace(text: str) -> Pace:
    """t_target=20,t_draft=2, in any order."""
    try:
        parts = dict(part.split("=") for part in text.split(","))
        told = Pace(float(parts.pop("t_target")), float(parts.pop("t_draft")))
        if parts or not all(0.0 < ms <= _SLOWEST_MS for ms in told):
            raise ValueError
    except (KeyError, ValueError):
        raise argparse.ArgumentTypeError(
            f"must be t_target=MS,t_draft=MS with positive milliseconds, not {text!r}"
        ) from None
    return told


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


def add_rule(parser: argparse.ArgumentParser) -> None:
    """Adds --rule."""
    parser.add_argument(
        "--rule",
        choices=RULES,
        default="exact",
        help="how drafts are judged when sampling: exact keeps the tokens, rejection and block "
        "their distribution (default: %(default)s)",
    )


def add_sampling(parser: argparse.ArgumentParser, *, max_tokens: int | None) -> None:
    """Adds how tokens are chosen and when to end; `sampling_params` reads it.

    Args:
        parser: of the command.
        max_tokens: the default; None is the end of the context.
    """
    add = parser.add_argument
    ending = "%(default)s" if max_tokens else "up to the end of the context"
    add("--max-tokens", type=count, default=max_tokens, metavar="N", help=f"default: {ending}")
    add(
        "--temperature",
        type=float,
        default=0.0,
        metavar="T",
        help="0 takes the likeliest token (default: 0)",
    )
    add("--top-k", type=int, default=0, metavar="K", help="0 keeps all (default: 0)")
    add("--top-p", type=float, default=1.0, metavar="P", help="default: 1")
    add("--min-p", type=float, default=0.0, metavar="P", help="default: 0")
    add(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="end before this text; may be given several times",
    )
    add("--min-tokens", type=int, default=0, metavar="N", help="no stop before (default: 0)")
    add("--repetition-penalty", type=float, default=1.0, metavar="R", help="default: 1")
    add("--frequency-penalty", type=float, default=0.0, metavar="F", help="default: 0")
    add("--presence-penalty", type=float, default=0.0, metavar="F", help="default: 0")
    add("--seed", type=int, metavar="S", help="for the same tokens again (default: random)")


def sampling_params(args: argparse.Namespace) -> SamplingParams:
    """What `add_sampling` added, as the library takes it."""
    return SamplingParams(
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        min_p=args.min_p,
        max_tokens=args.max_tokens or _UNLIMITED,
        seed=args.seed,
        stop=args.stop,
        min_tokens=args.min_tokens,
        repetition_penalty=args.repetition_penalty,
        frequency_penalty=args.frequency_penalty,
        presence_penalty=args.presence_penalty,
    )


def count(text: str) -> int:
    """An integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value
