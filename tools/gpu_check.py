#!/usr/bin/env python3
"""Build, check and measure the CUDA backend on the GPU of this machine, and write what came out.

    python3 tools/gpu_check.py

Ten minutes and no network are enough. It needs the CUDA toolkit, cmake and ninja; nanobind, pytest
and the packages that specrt needs for the Python tests; doctest for those of the kernels (where it
is not installed, CMAKE_PREFIX_PATH may say where it lies); compute-sanitizer and ncu. A stage whose
tools are missing says so, and the others go on.
Every number has a prediction, written into the results file before anything runs. With `--peers`
it measures Hugging Face transformers on the same shapes instead. Thin: everything is in tools/gpu.
"""

import sys

from gpu.command import main

if __name__ == "__main__":
    sys.exit(main())
