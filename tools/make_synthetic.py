#!/usr/bin/env python3
"""Write a random-weights Llama folder (bf16) of a given shape, to compare the speed of kernels."""

import argparse
from pathlib import Path

from specrt.eval.peers.synthetic import Shape, make_synthetic


def main() -> None:
    """Parse the shape and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, required=True)
    parser.add_argument("--layers", type=int, required=True)
    parser.add_argument("--ffn", type=int, required=True)
    parser.add_argument("--heads", type=int, required=True)
    parser.add_argument("--kv-heads", type=int, required=True)
    parser.add_argument("--vocab", type=int, required=True)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder to copy it from")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    shape = Shape(
        hidden=options.hidden,
        layers=options.layers,
        ffn=options.ffn,
        heads=options.heads,
        kv_heads=options.kv_heads,
        vocab=options.vocab,
        context=options.context,
    )
    count = make_synthetic(shape, options.tokenizer, options.output, options.seed)
    print(f"{options.output}: {count / 1e6:.1f} M parameters")


if __name__ == "__main__":
    main()
