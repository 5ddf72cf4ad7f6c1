#!/usr/bin/env python3
"""Side by side on the same weights, prompts and threads: llama.cpp, transformers and specrt.

Thin: everything is in specrt.eval.peers. Needs the extra packages gguf, torch and transformers,
and cmake and a compiler for llama.cpp; a peer that lacks something says so in the table.
"""

import sys

from specrt.eval.peers.cli import main

if __name__ == "__main__":
    sys.exit(main())
