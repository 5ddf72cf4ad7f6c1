"""`specrt build --backend tensorrt-llm`."""

import argparse
import sys
import time
from pathlib import Path

from specrt.build.errors import BuildError
from specrt.trtllm import builder
from specrt.trtllm.roles import Lookahead
from specrt.trtllm.unified import Dtype, Embedding


def run(args: argparse.Namespace) -> int:
    """Plan, convert or build what the arguments say; return exit status 0. Raises BuildError."""
    begin = time.monotonic()
    plan = builder.plan(args.model, args.draft, _options(args))
    if args.plan:
        print(builder.plan_text(plan, Path(args.out)))
        return 0
    if args.checkpoint_only:
        out = builder.convert(plan, args.out)
    else:
        out = builder.build(plan, args.out, interpreter=args.trtllm_python or sys.executable)
    for part in plan.parts:
        print(f"{out / part.name}: {part.role.value}, {part.config['dtype']}, {part.ranks} ranks")
    done = "converted" if args.checkpoint_only else "built"
    print(f"{done} {out} in {time.monotonic() - begin:.1f} s")
    return 0


def _options(args: argparse.Namespace) -> builder.Options:
    dtype = next((each for each in Dtype if each.name_here == args.dtype), None)
    if args.dtype is not None and dtype is None:
        raise BuildError(f"dtype {args.dtype!r} is not one of bf16, f16, which TensorRT-LLM takes")
    if args.draft_backend is not None:
        raise BuildError(
            "--draft-backend: TensorRT-LLM builds the draft's engine too; leave it out"
        )
    if args.max_context is not None and args.max_context < 2:
        raise BuildError(f"max_context {args.max_context} is below 2 positions")
    lookahead = None if args.lookahead is None else Lookahead(*args.lookahead)
    return builder.Options(
        ranks=1 if args.tensor_parallel is None else args.tensor_parallel,
        dtype=dtype,
        embedding=Embedding.SHARDED if args.shard_embedding else Embedding.WHOLE,
        max_context=args.max_context,
        max_draft_len=args.max_draft_len,
        lookahead=lookahead,
    )
