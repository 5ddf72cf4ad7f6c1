#!/usr/bin/env python3
"""A stand-in for trtllm-build, which needs a GPU: takes its flags, and writes files that say so.

STAND_IN_BUILD says what goes wrong: "fails", "no_engine" (of the last rank), "empty", or nothing.
"""

import argparse
import json
import os
import sys
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """The flags of TensorRT-LLM 1.2 that specrt gives; others are errors."""
    made = argparse.ArgumentParser(allow_abbrev=False)
    for flag in ("checkpoint_dir", "output_dir"):
        made.add_argument(f"--{flag}", type=Path, required=True)
    for flag in ("batch_size", "input_len", "seq_len", "num_tokens", "beam_width", "draft_len"):
        made.add_argument(f"--max_{flag}", type=int, default=0)
    made.add_argument("--gemm_plugin", choices=["float16", "bfloat16"], required=True)
    made.add_argument("--use_paged_context_fmha", choices=["enable", "disable"])
    modes = ["draft_tokens_external", "lookahead_decoding", "medusa", "eagle"]
    made.add_argument("--speculative_decoding_mode", choices=modes)
    return made


def main() -> int:
    """Builds nothing."""
    args, fault = parser().parse_args(), os.environ.get("STAND_IN_BUILD", "")
    config = json.loads((args.checkpoint_dir / "config.json").read_text(encoding="utf-8"))
    ranks = range(config["mapping"]["world_size"])
    for rank in ranks:
        assert (args.checkpoint_dir / f"rank{rank}.safetensors").is_file()
    print("[stand-in] building", flush=True)
    if fault == "fails":
        print("[stand-in] out of memory", file=sys.stderr)
        return 3
    args.output_dir.mkdir(parents=True)
    options = {name: value for name, value in vars(args).items() if not name.endswith("_dir")}
    built = {"version": "stand-in", "pretrained_config": config, "build_config": options}
    (args.output_dir / "config.json").write_text(json.dumps(built), encoding="utf-8")
    for rank in ranks if fault != "no_engine" else ranks[:-1]:
        content = "" if fault == "empty" else "made by a stand-in, not by TensorRT"
        (args.output_dir / f"rank{rank}.engine").write_text(content, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
