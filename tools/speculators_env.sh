#!/usr/bin/env bash
# Makes an environment with the `speculators` package, for tests/formats, and prints its Python:
#   SPECRT_SPECULATORS_PYTHON="$(tools/speculators_env.sh)" pytest tests/formats
# It is kept in the user's cache, and made again for another version of the package. The package's
# dependencies for images, sound and serving are left out: reading a drafter needs none of them.
set -euo pipefail

VERSION=0.9.0
FOLDER="${XDG_CACHE_HOME:-$HOME/.cache}/specrt-speculators/$VERSION"
if [ ! -e "$FOLDER/complete" ]; then
  rm -rf "$FOLDER"
  python3 -m venv "$FOLDER"
  "$FOLDER/bin/pip" install -q 'torch>=2.9,<2.14' 'transformers>=5.0,<=5.19.0' 'numpy<=2.5.4' \
    'datasets>=4.0,<=5.1.0' 'loguru<=0.7.3' openai psutil pydantic pydantic-settings rich \
    safetensors tqdm typer >&2
  "$FOLDER/bin/pip" install -q --no-deps "speculators==$VERSION" "hs-connectors==$VERSION" >&2
  touch "$FOLDER/complete"
fi
printf '%s\n' "$FOLDER/bin/python"
