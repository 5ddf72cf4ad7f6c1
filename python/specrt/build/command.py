"""The command line of the builder, shared by `specrt build` and tools/build_engine.py."""

import argparse
import sys
import time
from collections.abc import Sequence

from specrt.build.builder import DTYPES, build
from specrt.build.bundle import engine_entries, read_manifest
from specrt.build.engine_file import BACKENDS
from specrt.build.errors import BuildError

DESCRIPTION = "Compile a Hugging Face model, and a draft model if given, into a specrt bundle."
EXAMPLE = """example:
  %(prog)s meta-llama/Llama-3.1-8B-Instruct --draft meta-llama/Llama-3.2-1B-Instruct -o llama-8b
"""


def add_build_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the builder's description, example and arguments to a parser."""
    parser.description = DESCRIPTION
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "model", metavar="MODEL", help="Hugging Face folder with safetensors, or hub id"
    )
    parser.add_argument(
        "--draft",
        metavar="MODEL",
        action="append",
        default=[],
        help="small model with the same tokenizer that drafts; again for one that fills masks "
        "(method parallel) or a P-EAGLE folder (method parallel-eagle)",
    )
    parser.add_argument(
        "--backend", choices=BACKENDS, default="cpu", help="what runs it (default: %(default)s)"
    )
    parser.add_argument(
        "--draft-backend",
        choices=BACKENDS,
        help="what runs the drafters: the target's backend (the default), or as an experiment cpu "
        "beside cuda",
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, help="of the weights (default: bf16 unless the model is f32)"
    )
    parser.add_argument(
        "--max-context", type=int, metavar="N", help="most positions (default: the model's own)"
    )
    parser.add_argument(
        "--no-tune", action="store_true", help="do not measure step times on this machine"
    )
    parser.add_argument(
        "-o", "--out", metavar="BUNDLE", required=True, help="folder to write; a bundle is replaced"
    )


def run_build(args: argparse.Namespace) -> int:
    """Build what the arguments say and report it; return exit status 0. Raises BuildError."""
    begin = time.monotonic()
    bundle = build(
        args.model,
        draft=args.draft,
        out=args.out,
        backend=args.backend,
        draft_backend=args.draft_backend,
        dtype=args.dtype,
        max_context=args.max_context,
        tune=not args.no_tune,
    )
    for entry in engine_entries(read_manifest(bundle)):
        print(f"{bundle / entry['file']}: {entry['dtype']}, {entry['bytes'] / 1e6:.1f} MB")
    print(f"built {bundle} in {time.monotonic() - begin:.1f} s")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser()
    add_build_arguments(parser)
    try:
        return run_build(parser.parse_args(argv))
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
