#!/usr/bin/env python3
"""Train the parallel drafter of the demo.

    python tools/train_parallel_demo.py --data DATA --out OUT

DATA holds `train/*.jsonl[.gz]` and `dev/*.jsonl[.gz]`. The demo's target first answers training
prompts (shards in OUT/work/answers are used instead, if there are some); then the drafter, which
starts from the demo's draft, learns to fill 8 positions at once from those answers. After an
interruption the same command goes on from the checkpoint in OUT/work. OUT becomes a Hugging Face
folder with a card. CPU only: one core with AVX-512 BF16 makes about two steps a second.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch
from specrt.train.parallel_demo import ParallelDemo, train_demo_drafter
from specrt.train.schedule import Schedule

MODELS = Path(__file__).resolve().parent.parent / "python" / "specrt" / "demo"


def main() -> None:
    """Parse the arguments and train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and dev/")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--models", type=Path, default=MODELS, help="folder with target/ and draft/"
    )
    parser.add_argument("--start", type=Path, help="drafter to go on from (default: the draft)")
    parser.add_argument("--generate-minutes", type=float, default=12.0)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--decay-share", type=float, default=0.9, help="of the steps, at the end")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    train_demo_drafter(
        ParallelDemo(
            data=args.data,
            models=args.models,
            start=args.start or args.models / "draft",
            out=args.out,
            generate_minutes=args.generate_minutes,
            steps=args.steps,
            schedule=Schedule(0.02, args.decay_share),
            seed=args.seed,
        )
    )


if __name__ == "__main__":
    main()
