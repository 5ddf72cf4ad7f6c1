#!/usr/bin/env python3
"""A stand-in for the Python of an environment with TensorRT-LLM: prints what a probe would find.

Takes the place of `PYTHON probe.py`; STAND_IN_FOUND holds the JSON.
"""

import os
import sys

if __name__ == "__main__":
    assert sys.argv[1].endswith("probe.py"), sys.argv
    print(os.environ["STAND_IN_FOUND"])
