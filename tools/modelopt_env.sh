#!/usr/bin/env bash
# Makes an environment with NVIDIA ModelOpt, for tests/formats, and prints its Python:
#   SPECRT_MODELOPT_PYTHON="$(tools/modelopt_env.sh)" pytest tests/formats
# It is kept in the user's cache, and made again for another version of the package. ModelOpt writes
# TensorRT-LLM checkpoints on a CPU, under Python 3.10 to 3.12; it asks for an older transformers than
# the other tests.
set -euo pipefail

VERSION=0.37.0
FOLDER="${XDG_CACHE_HOME:-$HOME/.cache}/specrt-modelopt/$VERSION"
if [ ! -e "$FOLDER/complete" ]; then
  rm -rf "$FOLDER"
  python3 -m venv "$FOLDER"
  "$FOLDER/bin/pip" install -q 'torch>=2.9,<2.14' 'transformers==4.56.2' 'accelerate>=1.2' \
    "nvidia-modelopt==$VERSION" >&2
  touch "$FOLDER/complete"
fi
printf '%s\n' "$FOLDER/bin/python"
