"""specrt train: makes drafters for a target."""

import argparse
from importlib.util import find_spec
from pathlib import Path

from specrt.cli.options import count

HELP = "train a drafter for a target (needs the extra [train])"
_NEEDED = ("torch", "transformers", "accelerate", "safetensors", "matplotlib")
_DESCRIPTION = """\
Trains a drafter that imitates a target: "parallel" fills several positions in one forward, "draft"
is a plain small model. The result is a Hugging Face folder with a model card, training.json and
training.png. Training goes on where it stopped if the same command is given again. Several GPUs:
accelerate launch -m specrt.cli.main train ..."""
_KINDS = {
    "parallel": "a drafter that fills several positions in one forward (ParallelSpec, PARD)",
    "draft": "a plain draft model, distilled from the target",
}
_EPILOG = """the target's own answers are the best data; to make them and train on them:
  specrt generate BUNDLE --prompts PROMPTS.jsonl --jsonl answers.jsonl
  %(prog)s TARGET --draft SMALL_MODEL --data answers.jsonl -o DRAFTER
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds a command for each kind of drafter."""
    parser.description = _DESCRIPTION
    kinds = parser.add_subparsers(metavar="KIND", dest="kind", required=True)
    for kind, text in _KINDS.items():
        command = kinds.add_parser(kind, help=text)
        command.description, command.epilog = f"Trains {text}.", _EPILOG
        _add_models(command)
        _add_run(command)
    _add_depths(kinds.choices["parallel"])


def _add_models(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("target", type=Path, metavar="TARGET", help="Hugging Face folder of the target")
    add(
        "--draft",
        type=Path,
        required=True,
        metavar="INIT",
        help="Hugging Face folder to start from: a small Llama-family model, or a drafter",
    )
    add("--scratch", action="store_true", help="take the shape of INIT, not its weights")
    add("--layers", type=count, metavar="N", help="of the drafter (default: as INIT)")
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


def _add_run(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--loss", default="kl", metavar="NAME", help="kl (to the target) or ce (default: kl)")
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
        help="adamw, or muon for the matrices of the layers (default: adamw)",
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
    from specrt.train.group_mask import Cod
    from specrt.train.parallel import ParallelOptions, train_parallel

    depths = args.depths if args.kind == "parallel" else 1
    if args.kind == "parallel" and depths == 1:
        raise ValueError("a parallel drafter has 2 depths or more; for one, use: train draft")
    report = train_parallel(
        ParallelOptions(
            target=args.target,
            draft=args.draft,
            data=tuple(args.data),
            out=args.out,
            validation=tuple(args.validation),
            depths=depths,
            layers=args.layers,
            scratch=args.scratch,
            loss=args.loss,
            depth_decay=args.depth_decay if depths > 1 else 1.0,
            cod=Cod(args.cod_ratio, args.cod_floor) if depths > 1 else Cod(1.0, 1.0),
            steps=args.steps,
            batch_tokens=args.batch_tokens,
            max_length=args.max_length,
            optimizer=args.optimizer,
            learning_rate=args.learning_rate,
            precision=args.precision,
            check_s=args.check_minutes * 60.0,
            seed=args.seed,
        )
    )
    print(f"{args.out}: {report.best.line()}")
    return 0
