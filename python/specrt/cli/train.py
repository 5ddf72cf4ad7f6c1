"""specrt train: makes drafters for a target."""

import argparse
import math
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
"parallel-eagle" and "parallel-medusa" do so from hidden states of the target, "medusa" has a head
for each position, "eagle" goes on with its own estimates of hidden states, "streaming" drafts
inside the target's own layers, "draft" is a plain small model. The result is a folder with a model
card, training.json and training.png. Training goes on where it stopped if the same command is given
again.
Several GPUs:
accelerate launch -m specrt.cli.main train ..."""
_KINDS = {
    "parallel": "a drafter that fills several positions in one forward (ParallelSpec, PARD)",
    "parallel-eagle": "a drafter that fills several positions from hidden states (P-EAGLE)",
    "parallel-medusa": "a decoder layer in place of Medusa heads (ParallelSpec)",
    "medusa": "heads that each draft a position from hidden states (Medusa-1)",
    "eagle": "a decoder layer that goes on with its own estimates of hidden states (EAGLE-1)",
    "streaming": "streams that draft inside the target (Speculative Streaming)",
    "draft": "a plain draft model, distilled from the target",
}
_SMALL = ("parallel", "draft")  # kinds that start from a small model
# What starts at zero takes larger steps than a model.
_DEFAULTS = {"streaming": {"learning_rate": 2.5e-4}, "medusa": {"learning_rate": 1e-3}}
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
        for add_some in (*_PARTS[kind], _add_run):
            add_some(command)
        command.set_defaults(**_DEFAULTS.get(kind, {}))


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


def _add_earlier(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--draft",
        type=Path,
        metavar="INIT",
        help="an earlier drafter of the same kind and shape to go on from (default: a new one)",
    )


def _add_layers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--layers", type=count, metavar="N", help="of a new drafter (default: 1)")


def _add_parallel_eagle(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
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


def _add_medusa(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--heads", type=count, default=4, metavar="H", help="positions (default: %(default)s)")
    add(
        "--head-layers",
        type=count,
        default=1,
        metavar="N",
        help="blocks of each head (default: %(default)s)",
    )
    _add_decay(parser, 0.8)


def _add_eagle(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--feature-weight",
        type=float,
        default=1.0,
        metavar="A",
        help="of the loss of estimated states (default: %(default)s)",
    )
    add(
        "--score-weight",
        type=float,
        default=0.1,
        metavar="A",
        help="of the loss of their scores (default: %(default)s)",
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
    _add_decay(parser, 0.9)
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


def _add_decay(parser: argparse.ArgumentParser, default: float) -> None:
    parser.add_argument(
        "--depth-decay",
        type=float,
        default=default,
        metavar="G",
        help="weight of position k is G^(k-1) (default: %(default)s)",
    )


def _bytes_of_gb(text: str) -> int:
    """A size in GB, in bytes."""
    size = float(text)
    if not 0.0 <= size < math.inf:
        raise argparse.ArgumentTypeError(f"must be a size of at least 0 GB, not {text}")
    return int(size * 1e9)


def _add_feature_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--feature-cache",
        type=_bytes_of_gb,
        default="16",
        metavar="GB",
        help="largest size of the file in OUT/work, deleted at the end, that keeps the target's "
        "hidden states, so that it runs over each row once (0: none; default: %(default)s)",
    )


# What the command of each kind has of its own.
_PARTS = {
    "parallel": (_add_small_model, _add_depths),
    "parallel-eagle": (
        _add_earlier,
        _add_layers,
        _add_parallel_eagle,
        _add_depths,
        _add_feature_cache,
    ),
    "parallel-medusa": (_add_earlier, _add_layers, _add_depths, _add_feature_cache),
    "medusa": (_add_earlier, _add_medusa, _add_feature_cache),
    "eagle": (_add_earlier, _add_eagle, _add_feature_cache),
    "streaming": (_add_earlier, _add_streams),
    "draft": (_add_small_model,),
}


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
    if "feature_cache" in args:
        shared["feature_cache_bytes"] = args.feature_cache
    if args.kind == "streaming":
        return _stream_options(args, shared)
    if args.kind in ("medusa", "eagle"):
        return _head_options(args, shared)
    return _group_options(args, shared)


def _stream_options(args: argparse.Namespace, shared: dict[str, Any]) -> "RunOptions":
    """Options of streams."""
    from specrt.train.streaming import StreamOptions

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


def _head_options(args: argparse.Namespace, shared: dict[str, Any]) -> "RunOptions":
    """Options of drafters on last states that have no masks."""
    from specrt.train.eagle1 import Eagle1Options
    from specrt.train.medusa import MedusaOptions

    if args.kind == "eagle":
        return Eagle1Options(
            **shared, feature_weight=args.feature_weight, score_weight=args.score_weight
        )
    return MedusaOptions(
        **shared, depths=args.heads, head_layers=args.head_layers, depth_decay=args.depth_decay
    )


def _group_options(args: argparse.Namespace, shared: dict[str, Any]) -> "RunOptions":
    """Options of drafters that fill masks, and of a plain draft."""
    from specrt.train.group_mask import Cod
    from specrt.train.parallel import ParallelOptions
    from specrt.train.parallel_eagle import EagleOptions
    from specrt.train.parallel_medusa import ParallelMedusaOptions

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
    if args.kind == "parallel-medusa":
        return ParallelMedusaOptions(**shared)
    return ParallelOptions(**shared, scratch=args.scratch)
