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
TENSORRT_LLM = "tensorrt-llm"
F16 = "f16"  # for TensorRT-LLM alone
_TENSORRT_LLM_FLAGS = (
    "--tensor-parallel",
    "--max-draft-len",
    "--lookahead",
    "--shard-embedding",
    "--trtllm-python",
    "--checkpoint-only",
    "--plan",
)


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
        "(method parallel), a P-EAGLE folder (parallel-eagle), a folder of specrt train "
        "parallel-medusa, an EAGLE folder (eagle), or Medusa heads (medusa)",
    )
    parser.add_argument(
        "--backend",
        choices=(*BACKENDS, TENSORRT_LLM),
        default="cpu",
        help="what runs it (default: %(default)s)",
    )
    parser.add_argument(
        "--draft-backend",
        choices=BACKENDS,
        help="what runs the drafters: the target's backend (the default), or as an experiment cpu "
        "beside cuda",
    )
    parser.add_argument(
        "--dtype",
        choices=(*DTYPES, F16),
        help="of the weights (default: bf16 unless the model is f32); f16 is for tensorrt-llm",
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
    _add_tensorrt_llm_arguments(parser)


def _add_tensorrt_llm_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "with --backend tensorrt-llm",
        "MODEL becomes a TensorRT-LLM checkpoint, of which trtllm-build makes an engine in the "
        "environment of TensorRT-LLM 1.2.1; --draft is a draft model or a folder with Medusa heads",
    )
    group.add_argument("--tensor-parallel", type=int, metavar="N", help="ranks: 1, 2 or 4")
    group.add_argument(
        "--max-draft-len", type=int, metavar="N", help="most drafted tokens that a target verifies"
    )
    group.add_argument(
        "--lookahead", type=_lookahead, metavar="W,N,G", help="lookahead decoding: window, n-gram, "
        "verification set"
    )  # fmt: skip
    group.add_argument(
        "--shard-embedding", action="store_true", help="divide the input embedding over the ranks"
    )
    group.add_argument(
        "--trtllm-python", metavar="PYTHON", help="of TensorRT-LLM's environment (default: this)"
    )
    group.add_argument(
        "--checkpoint-only", action="store_true", help="convert; needs neither TensorRT nor a GPU"
    )
    group.add_argument(
        "--plan", action="store_true", help="print the commands and configs, and write nothing"
    )


def _lookahead(text: str) -> tuple[int, int, int]:
    """7,7,7."""
    words = text.split(",")
    if len(words) != 3 or not all(word.isascii() and word.isdigit() for word in words):
        raise argparse.ArgumentTypeError(f"must be three numbers W,N,G, not {text!r}")
    window, ngram, verification = map(int, words)
    if not (1 <= window <= 64 and 2 <= ngram <= 64 and verification <= 64):
        raise argparse.ArgumentTypeError(f"W must be 1 to 64, N 2 to 64, G 0 to 64, not {text!r}")
    return window, ngram, verification


def _refuse_tensorrt_llm_flags(args: argparse.Namespace) -> None:
    """Raise BuildError for flags that the backend does not have."""
    for flag in _TENSORRT_LLM_FLAGS:
        value = getattr(args, flag.removeprefix("--").replace("-", "_"))
        if value is not None and value is not False:
            raise BuildError(f"{flag} is for --backend {TENSORRT_LLM}, not {args.backend}")
    if args.dtype == F16:
        raise BuildError(f"--dtype {F16} is for --backend {TENSORRT_LLM}, not {args.backend}")


def run_build(args: argparse.Namespace) -> int:
    """Build what the arguments say and report it; return exit status 0. Raises BuildError."""
    if args.backend == TENSORRT_LLM:
        from specrt.trtllm import command

        return command.run(args)
    _refuse_tensorrt_llm_flags(args)
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
        return error.status
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
