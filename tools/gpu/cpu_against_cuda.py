"""Demo models on both backends: how far log-probabilities are apart, and where tokens differ.

    python tools/gpu/cpu_against_cuda.py FOLDER

Builds both bundles into FOLDER, decodes the packaged prompts greedily and prints readings as lines
of JSON. Sums are in another order, so logits differ in the last bits, and tokens differ only where
the two best are that close: from the first difference on, two texts have nothing to do with each
other.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import specrt
from specrt.build import build
from specrt.demo import bundle_path

PROMPTS = Path(__file__).resolve().parents[2] / "tests" / "data" / "prompts.jsonl.gz"
_PROMPTS, _TOKENS = 40, 48


def _print(name: str, value: float, unit: str) -> None:
    print(json.dumps({"name": f"cpu_cuda.{name}", "value": value, "unit": unit}), flush=True)


def _answers(bundle: Path) -> list[specrt.RequestOutput]:
    llm = specrt.LLM(bundle, method="autoregressive")
    params = specrt.SamplingParams(temperature=0, max_tokens=_TOKENS, logprobs=2)
    with gzip.open(PROMPTS, "rt", encoding="utf-8") as lines:
        prompts = [json.loads(line)["prompt"] for line in lines][:_PROMPTS]
    return [output for prompt in prompts for output in llm.generate(prompt, params)]


def _common(a: list[int], b: list[int]) -> int:
    """Tokens from the first one on that are the same."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))


def main(folder: Path) -> int:
    """Prints the readings."""
    models = Path(specrt.demo.__file__).parent
    cuda = folder / "demo-cuda"
    if not (cuda / "manifest.json").is_file():
        build(models / "target", draft=models / "draft", out=cuda, backend="cuda")
    error = gap = 0.0
    tokens = differences = 0
    for left, right in zip(_answers(bundle_path()), _answers(cuda), strict=True):
        assert left.logprobs is not None and right.logprobs is not None
        same = _common(left.token_ids, right.token_ids)
        tokens += same
        for i in range(same):
            token = left.token_ids[i]
            error = max(error, abs(left.logprobs[i][token] - right.logprobs[i][token]))
        if same < min(len(left.token_ids), len(right.token_ids)):
            differences += 1
            best = sorted(left.logprobs[same].values(), reverse=True)
            gap = max(gap, best[0] - best[1])
    _print("tokens", tokens, "tokens")
    _print("logprob_error", error, "nats")
    _print("differences", differences, "prompts")
    _print("gap_at_difference", gap, "nats")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
