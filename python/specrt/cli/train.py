"""specrt train: makes drafters for a target."""

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specrt.cli.options import count

if TYPE_CHECKING:
    from specrt.train.parallel import RunOptions

HELP = "train a drafter for a target (needs the extra [train])"
_NEEDED = ("torch", "transformers", "accelerate", "safetensors", "matplotlib")
_DESCRIPTION = """\
Trains a drafter that imitates a target: "parallel" fills several positions in one forward,
"parallel-eagle" does so from hidden states of the target, "streaming" drafts inside the target's
own layers, "draft" is a plain small model. The result is a folder with a model card, training.json
and training.png. Training goes on where it stopped if the same command is given again.
Several GPUs:
accelerate launch -m specrt.cli.main train ..."""
_KINDS = {
    "parallel": "a drafter that fills several positions in one forward (ParallelSpec, PARD)",
    "parallel-eagle": "a drafter that fills several positions from hidden states (P-EAGLE)",
    "streaming": "streams that draft inside the target (Speculative Streaming)",
    "draft": "a plain draft model, distilled from the target",
}
_SMALL = ("parallel", "draft")  # kinds that start from a small model
# Adapters are small and start at zero: they take larger steps than a model.
_STREAM_DEFAULTS = {"optimizer": "adamw", "learning_rate": 2.5e-4}
_EPILOG = """the target's own answers are the best data; to make them and train on them:
  specrt generate BUNDLE --prompts PROMPTS.jsonl --jsonl answers.jsonl
  %(prog)s TARGET{draft} --data answers.jsonl -o DRAFTER
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds a command for each kind of drafter."""
    parser.description = _DESCRIPTION
    kinds = parser.add_subparsers(metavar="KIND", dest="kind", required=True)
    for kind, text in _KINDS.items():
        command = kinds.add_parser(kind, help=text)
        small = " --draft SMALL_MODEL" if kind in _SMALL else ""
        command.description, command.epilog = f"Trains {text}.", _EPILOG.format(draft=small)
        command.add_argument(
            "target", type=Path, metavar="TARGET", help="Hugging Face folder of the target"
        )
        if kind in _SMALL:
            _add_small_model(command)
        elif kind == "streaming":
            _add_streams(command)
        else:
            _add_eagle(command)
        _add_run(command)
        if kind.startswith("parallel"):
            _add_depths(command)
        elif kind == "streaming":
            command.set_defaults(**_STREAM_DEFAULTS)


def _add_small_model(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--draft",
        type=Path,
        required=True,
        metavar="INIT",
        help="Hugging Face folder to start from: a small Llama-family model, or a drafter",
    )
    add("--scratch", action="store_true", help="take the shape of INIT, not its weights")
    add("--layers", type=count, metavar="N", help="of the drafter (default: as INIT)")


def _add_eagle(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--draft",
        type=Path,
        metavar="INIT",
        help="a P-EAGLE drafter to go on from (default: a new one)",
    )
    add("--layers", type=count, metavar="N", help="of a new drafter (default: 1)")
    add(
        "--target-layers",
        type=_layers,
        metavar="I,J,K",
        help="layers of the target whose inputs are read (default: EAGLE-3's, 2, half, last but 2)",
    )
    add(
        "--mask-token",
        type=int,
        metavar="ID",
        help="a token that no text has (default: the tokenizer's mask token, or an unused one)",
    )


def _add_streams(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--mode",
        default="lossless",
        metavar="NAME",
        help="lossless (the target stays as it is) or shared (it is fine-tuned with its streams, "
        "which makes another model of it; default: %(default)s)",
    )
    add(
        "--draft",
        type=Path,
        metavar="ADAPTER",
        help="an earlier adapter of the same shape to go on from (default: a new one)",
    )
    add("--streams", type=int, default=4, metavar="K", help="positions (default: %(default)s)")
    add(
        "--stream-layers",
        type=int,
        default=4,
        metavar="N",
        help="last layers of the target, which the streams go through (default: %(default)s)",
    )
    add(
        "--stream-positions",
        default="shifted",
        metavar="NAME",
        help="of stream j of position t: t + j (shifted) or t (same; default: %(default)s)",
    )
    add("--lora-rank", type=int, default=32, metavar="R", help="default: %(default)s")
    add(
        "--lora-modules",
        type=lambda text: tuple(text.split(",")),
        default=("qkv", "o", "down"),
        metavar="NAMES",
        help="some of qkv,o,down (default: all)",
    )
    add(
        "--stream-weight",
        type=float,
        default=0.1,
        metavar="A",
        help="weight of each stream's loss (default: %(default)s)",
    )
    add(
        "--position-share",
        type=float,
        default=0.25,
        metavar="R",
        help="share of an answer's positions that get streams in a step (default: %(default)s)",
    )
    add(
        "--exit-weight",
        type=float,
        default=0.1,
        metavar="R",
        help="of the loss of the early exit that prunes (default: %(default)s)",
    )
    add(
        "--embedding-rate",
        type=float,
        default=0.01,
        metavar="R",
        help="learning rate of the stream embeddings (default: %(default)s)",
    )
    add(
        "--attention",
        default="torch",
        metavar="NAME",
        help="torch, fused (an operator that is compiled at first use, extra [torch-ops]) or auto "
        "(fused where it can be had; default: %(default)s)",
    )


def _layers(text: str) -> tuple[int, ...]:
    """Numbers separated by commas."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers like 2,4,5, not {text!r}") from None


def _add_run(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-o", "--out", type=Path, required=True, metavar="OUT", help="folder to write")
    add(
        "--data",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help='JSON lines {"prompt", "response"}, {"text"} or of `specrt generate --jsonl`; or .gz',
    )
    add(
        "--validation",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="prompts to measure acceptance on (default: some of --data are kept out)",
    )
    add(
        "--loss",
        metavar="NAME",
        help="kl (to the target) or ce (to the data; default: kl, with --mode shared ce)",
    )
    add("--steps", type=count, default=2000, metavar="N", help="default: %(default)s")
    add(
        "--batch-tokens",
        type=count,
        default=4096,
        metavar="N",
        help="tokens of a step on each device, without masks (default: %(default)s)",
    )
    add("--max-length", type=count, default=512, metavar="N", help="default: %(default)s tokens")
    add("--learning-rate", type=float, default=1e-4, metavar="R", help="default: %(default)s")
    add(
        "--optimizer",
        default="adamw",
        metavar="NAME",
        help="adamw, or muon for the matrices of the layers (default: %(default)s)",
    )
    add("--precision", default="bf16", metavar="NAME", help="bf16 or f32 (default: bf16)")
    add(
        "--check-minutes",
        type=float,
        default=4.0,
        metavar="M",
        help="between checkpoints, each with a measurement (default: %(default)s)",
    )
    add("--seed", type=int, default=1, metavar="S", help="default: %(default)s")


def _add_depths(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--depths", type=count, default=8, metavar="K", help="positions (default: %(default)s)")
    add(
        "--depth-decay",
        type=float,
        default=0.9,
        metavar="G",
        help="weight of position k is G^(k-1) (default: %(default)s)",
    )
    add(
        "--cod-ratio",
        type=float,
        default=0.7,
        metavar="R",
        help="share of positions kept from one depth to the next (default: %(default)s)",
    )
    add(
        "--cod-floor",
        type=float,
        default=0.2,
        metavar="R",
        help="smallest share of positions kept at a depth (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Trains."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"training needs {', '.join(missing)}, not installed here: pip install 'specrt[train]'"
        )
    from specrt.train.parallel import train_parallel

    report = train_parallel(_options(args))
    print(f"{args.out}: {report.best.line()}")
    return 0


def _options(args: argparse.Namespace) -> "RunOptions":
    from specrt.train.streaming import StreamOptions

    shared: dict[str, Any] = {
        "target": args.target,
        "draft": args.draft,
        "data": tuple(args.data),
        "out": args.out,
        "validation": tuple(args.validation),
        "loss": args.loss or "kl",
        "steps": args.steps,
        "batch_tokens": args.batch_tokens,
        "max_length": args.max_length,
        "optimizer": args.optimizer,
        "learning_rate": args.learning_rate,
        "precision": args.precision,
        "check_s": args.check_minutes * 60.0,
        "seed": args.seed,
    }
    if args.kind != "streaming":
        return _group_options(args, shared)
    if args.mode == "shared" and args.loss is None:
        shared["loss"] = "ce"
    return StreamOptions(
        **shared,
        mode=args.mode,
        streams=args.streams,
        stream_layers=args.stream_layers,
        stream_positions=args.stream_positions,
        lora_rank=args.lora_rank,
        lora_modules=args.lora_modules,
        stream_weight=args.stream_weight,
        exit_weight=args.exit_weight,
        embedding_rate=args.embedding_rate,
        position_share=args.position_share,
        attention=args.attention,
    )


def _group_options(args: argparse.Namespace, shared: dict[str, Any]) -> "RunOptions":
    """Options of drafters that fill masks, and of a plain draft."""
    from specrt.train.group_mask import Cod
    from specrt.train.parallel import ParallelOptions
    from specrt.train.parallel_eagle import EagleOptions

    parallel = args.kind != "draft"
    if parallel and args.depths == 1:
        raise ValueError("a parallel drafter has 2 depths or more; for one, use: train draft")
    shared |= {
        "layers": args.layers,
        "depths": args.depths if parallel else 1,
        "depth_decay": args.depth_decay if parallel else 1.0,
        "cod": Cod(args.cod_ratio, args.cod_floor) if parallel else Cod(1.0, 1.0),
    }
    if args.kind == "parallel-eagle":
        return EagleOptions(**shared, target_layers=args.target_layers, mask_token=args.mask_token)
    return ParallelOptions(**shared, scratch=args.scratch)
