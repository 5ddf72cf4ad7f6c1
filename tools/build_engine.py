"""Compiles a Hugging Face model into a specrt bundle; the same as `specrt build`."""

import sys

from specrt.build.command import main

if __name__ == "__main__":
    sys.exit(main())
