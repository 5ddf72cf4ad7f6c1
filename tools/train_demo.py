#!/usr/bin/env python3
"""Train the pair of demo models: a target and the small draft that speeds it up.

    python tools/train_demo.py --data DATA --init MODELS --out OUT

DATA holds `train/*.jsonl[.gz]` and `dev/*.jsonl[.gz]`; MODELS holds an earlier `target/` and
`draft/` of the same shapes to start from (without it both start from random weights, and a
tokenizer is trained). Four stages run in this order; `--stages` picks some of them:

    target    causal training on a weighted mix of the text (0 minutes: keep the target of MODELS)
    generate  the target's answers to training prompts, greedy and at temperature 0.8
    draft     distillation of the draft on those answers and a share of the text
    eval      acceptance of both pairs on dev prompts, and the model card OUT/README.md

Every stage runs for the minutes given, by the wall clock, and the learning rate follows that
clock: training ends in time on a machine that others use too. After an interruption the same
command goes on from OUT/work: a checkpoint every four minutes, a shard of every 1000 answers. A
finished training stage is not repeated while its checkpoint is there; `generate` adds answers each
time. The models are Hugging Face folders. CPU only: two cores with AVX-512 BF16 train the target at
about 4000 tokens a second.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch
from specrt.train.demo import STAGES, DemoOptions, run_demo


def main() -> None:
    """Parse the arguments and run the stages."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and dev/")
    parser.add_argument(
        "--init", type=Path, help="folder with the target/ and draft/ to start from"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--stages", default=",".join(STAGES), help="comma-separated, default: all")
    parser.add_argument("--target-minutes", type=float, default=60.0)
    parser.add_argument("--generate-minutes", type=float, default=12.0)
    parser.add_argument("--draft-minutes", type=float, default=30.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    stages = args.stages.split(",")
    if unknown := set(stages) - set(STAGES):
        parser.error(f"unknown stages {sorted(unknown)}; there are {', '.join(STAGES)}")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    run_demo(
        DemoOptions(
            data=args.data,
            init=args.init,
            out=args.out,
            target_minutes=args.target_minutes,
            generate_minutes=args.generate_minutes,
            draft_minutes=args.draft_minutes,
            seed=args.seed,
        ),
        stages,
    )


if __name__ == "__main__":
    main()
