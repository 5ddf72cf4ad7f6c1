"""A CUDA bundle on a machine without a GPU is refused in one line, and CPU bundles work."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from reference.tiny_llama import TinyLlama, write_tiny_llama
from specrt.build import build

PROGRAM = """
import json, sys, specrt

texts = []
for _ in range(2):
    try:
        specrt.LLM(sys.argv[1])
    except specrt.Error as error:
        texts.append(str(error))
params = specrt.SamplingParams(max_tokens=3, ignore_eos=True)
print(json.dumps([texts, len(specrt.LLM(sys.argv[2]).generate([[5, 6]], params)[0].token_ids)]))
"""
# Without the library; with it and without a driver; with both and no GPU to see.
REASONS = r"cannot be opened .*nvcc|there is no NVIDIA driver|no CUDA device is visible"


def test_opening_the_cuda_backend_without_a_gpu(tmp_path: Path) -> None:
    shape = TinyLlama(heads=2, kv_heads=1, head_dim=64, ffn=72)
    folder = write_tiny_llama(tmp_path / "model", shape)
    bundles = [
        build(folder, out=tmp_path / name, backend=name, dtype="bf16", progress=False, tune=False)
        for name in ("cuda", "cpu")
    ]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("SPECRT_CUDA_LIBRARY", None)  # the one of the installation, if there is one
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, bundles)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    texts, count = json.loads(done.stdout)
    assert len(texts) == 2
    for text in texts:
        assert "\n" not in text
        assert re.search(REASONS, text), text
        assert "--backend cpu" in text
    assert count == 3
