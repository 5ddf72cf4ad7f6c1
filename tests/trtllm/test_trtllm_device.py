"""With TensorRT-LLM and a GPU: the demo pair is built, and all methods give the same tokens.

SPECRT_TRTLLM_PYTHON names the Python of an environment with TensorRT-LLM 1.2.1 in which specrt is
installed too. No result of this test is known yet.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
import specrt
from specrt.cli.main import main
from specrt.trtllm.generator import METHODS

PYTHON = os.environ.get("SPECRT_TRTLLM_PYTHON", "")
DEMO = Path(specrt.__file__).parent / "demo"
SCRIPT = """
import json, sys
from specrt.trtllm.generator import open_generator
with open_generator(sys.argv[1], method=sys.argv[2]) as generator:
    print(json.dumps(generator.generate(range(100, 120), 64).token_ids))
"""

pytestmark = pytest.mark.skipif(
    not PYTHON,
    reason="SPECRT_TRTLLM_PYTHON names no Python with TensorRT-LLM 1.2.1 and specrt, on a machine "
    "with an NVIDIA GPU",
)


def test_all_methods_give_the_same_tokens(tmp_path: Path) -> None:
    out = tmp_path / "engines"
    words = ["build", str(DEMO / "target"), "--draft", str(DEMO / "draft"), "-o", str(out)]
    assert main([*words, "--backend", "tensorrt-llm", "--trtllm-python", PYTHON]) == 0
    outputs = {}
    for method in METHODS:
        done = subprocess.run(
            [PYTHON, "-c", SCRIPT, out, method], capture_output=True, text=True, check=True
        )
        outputs[method] = json.loads(done.stdout.splitlines()[-1])
    assert len(outputs["autoregressive"]) == 64
    assert all(each == outputs["autoregressive"] for each in outputs.values())
