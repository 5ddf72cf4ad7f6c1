"""What users of speculative decoding report again and again does not hold here.

Complaint, where it was reported, and the test that would notice it. Those without a file are below.

- Greedy output differs with speculation (vllm #7627, #41758, transformers #39421, mlx-lm #1423):
  tests/e2e/test_identity.py test_methods_agree_on_many_prompts,
  tests/e2e/test_ngram.py test_the_output_is_that_of_autoregressive,
  tests/engine/test_logits.py test_logits_do_not_depend_on_rows_or_threads; under a repetition
  penalty (vllm #22987): tests/e2e/test_logit_options.py test_methods_agree
- Sampling is silently wrong above temperature 0 (vllm #10198, mlx-swift-lm #459):
  tests/decode/test_distribution.py test_triples_of_tokens_follow_the_model
- The draft ignores the temperature (dflash #74):
  tests/e2e/test_identity.py test_the_same_bundle_serves_as_its_own_drafter
- Stops inside an accepted block come late or twice (sglang #31599, openvino.genai #1951):
  tests/e2e/test_stops.py test_every_substring_stops_where_it_first_appears; text behind the
  end-of-sequence token (koboldcpp #1276): tests/e2e/test_endings.py test_end_of_sequence
- Tokens and log-probabilities go on behind a stop (vllm #47616, sglang #14046):
  test_tokens_and_logprobs_do_not_run_past_a_stop_text
- A crash at the end of the context takes the engine down (vllm #57941, #24662):
  test_the_end_of_the_context_does_not_take_the_llm_down; a drafter's shorter window (vllm #5342):
  tests/e2e/test_reliability_lengths.py test_max_tokens_beyond_the_context_fill_it
- Speculation makes it slower, and nothing switches it off (vllm #4565, #24343, sglang #6949):
  tests/e2e/test_adaptive.py
  test_a_useless_drafter_is_switched_off_and_then_not_even_prefilled
- The length of drafts must be found by hand (vllm #17984, #32374):
  tests/e2e/test_adaptive.py
  test_with_the_target_as_its_own_drafter_the_length_reaches_the_maximum
- Drafts in another vocabulary (llama.cpp #3812):
  tests/build/test_build_refusals.py test_draft_with_another_tokenizer_is_refused
- Sampling options are ignored (sglang #10617, #11555):
  test_sampling_options_are_not_ignored_under_speculation
- Structured output is silently dropped (lmdeploy #4551, vllm #15554):
  test_structured_output_is_refused_and_not_ignored
- Seeds do not repeat an output (vllm #6038):
  tests/e2e/test_endings.py test_the_seed_repeats_a_completion; requests in flight mix theirs
  (vllm #9441): test_requests_in_flight_do_not_mix_their_seeds; unseeded ones share a stream
  (TensorRT-LLM #19487): test_requests_without_a_seed_do_not_share_one_random_stream
- Acceptance varies from run to run at temperature 0 (vllm #53436):
  test_acceptance_does_not_vary_from_run_to_run
- The drafter's KV cache is over-allocated or counted twice (TensorRT-LLM #15017, #12188):
  test_the_drafter_takes_no_more_memory_than_its_engine_says
- Memory grows with requests (sglang #20872):
  test_memory_does_not_grow_from_request_to_request
- No numbers for one request, or numbers that do not add up (vllm #48915, sglang #11144):
  test_metrics_of_a_request_add_up
- Speed is counted in stream chunks (vllm #45678, #50600, llama-benchy #11):
  test_speed_counts_tokens_and_not_stream_chunks
- Nobody can tell whether speculation is on (llama.cpp server):
  test_the_method_in_effect_is_reported
- No public C++ interface (llama.cpp #27788): tests/cpp/generator_test.cpp drives it.
"""

import re
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from reference.tiny_llama import TinyLlama, write_tiny_llama
from specrt import LLM, RequestOutput, SamplingParams
from specrt.build import build

pytestmark = pytest.mark.cpu_only(
    "the core's behaviour at length; test_identity and test_endings have it in short"
)

TESTS = Path(__file__).parent.parent
METHODS = ("speculative", "ngram", "ngram+speculative", "pearl")
PROMPT = "one two one two one two"
SAMPLED = SamplingParams(temperature=0.8, max_tokens=80, seed=5, ignore_eos=True)
LETTERS = {7 + ord(letter): 8.0 for letter in "abcdefghijklmnopqrstuvwxyz"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target and a draft that agree in about a half of all tokens."""
    folder = tmp_path_factory.mktemp("tiny")
    shape = TinyLlama(architecture="qwen3", dtype="bf16")
    target = write_tiny_llama(folder / "target", shape)
    draft = write_tiny_llama(folder / "draft", replace(shape, layers=2, context=160))
    return build(target, draft=draft, out=folder / "bundle", progress=False, tune=False)


@pytest.fixture(scope="module")
def plain(bundle: Path) -> LLM:
    return LLM(bundle, method="autoregressive", threads=1)


@pytest.fixture(scope="module", params=METHODS)
def llm(request: pytest.FixtureRequest, bundle: Path) -> LLM:
    return LLM(bundle, method=request.param, num_speculative_tokens=4, threads=1)


def complete(llm: LLM, params: SamplingParams = SAMPLED) -> RequestOutput:
    [out] = llm.generate(PROMPT, params)
    return out


def test_every_test_named_above_exists() -> None:
    assert __doc__ is not None
    names = re.findall(r"\b(?:(tests/\S+\.py)\s+)?(test_\w+)\b(?!\.)", __doc__)
    assert len(names) > 15
    for file, name in names:
        source = (TESTS.parent / file if file else Path(__file__)).read_text()
        assert f"def {name}(" in source, name


OPTIONS: dict[str, dict[str, object]] = {
    "temperature": {"temperature": 1.4},
    "seed": {"seed": 6},
    "top_k": {"top_k": 2},
    "top_p": {"top_p": 0.3},
    "min_p": {"min_p": 0.5},
    "min_tokens": {"stop_token_ids": [7 + ord("o")], "min_tokens": 20},
    "stop_token_ids": {"stop_token_ids": [7 + ord("o"), 7 + ord("'")]},
    "logit_bias": {"logit_bias": LETTERS},
    "repetition_penalty": {"repetition_penalty": 1.4},
    "frequency_penalty": {"frequency_penalty": 1.5},
    "presence_penalty": {"presence_penalty": 2.0},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_sampling_options_are_not_ignored_under_speculation(
    name: str, llm: LLM, plain: LLM
) -> None:
    params = replace(SAMPLED, **OPTIONS[name])  # type: ignore[arg-type]
    out = complete(llm, params)
    assert out.token_ids == complete(plain, params).token_ids
    assert out.token_ids != complete(llm).token_ids


def test_tokens_and_logprobs_do_not_run_past_a_stop_text(llm: LLM) -> None:
    params = replace(SAMPLED, logit_bias=LETTERS, logprobs=2)
    free = complete(llm, params)
    assert free.logprobs is not None
    ends, inside = [], 0
    for r in free.metrics.rounds:
        ends.append((ends[-1] if ends else 1) + r.committed)
    for begin in range(0, len(free.text) - 3, 3):
        stop = free.text[begin : begin + 3]
        out = complete(llm, replace(params, stop=stop))
        assert out.text == free.text[: free.text.index(stop)]
        kept = len(out.token_ids)
        assert out.token_ids == free.token_ids[:kept]
        assert out.logprobs == free.logprobs[:kept]
        assert sum(r.committed for r in out.metrics.rounds) == kept - 1
        inside += kept not in ends
    assert inside > 0  # a stop within a block is the case that this is about


def test_the_end_of_the_context_does_not_take_the_llm_down(llm: LLM, plain: LLM) -> None:
    context = llm.core.context
    for length in (context - 1, context - 2, context - 5, 161, 160, 159, 156):
        prompt = [7 + (i * i) % 250 for i in range(length)]
        params = replace(SAMPLED, max_tokens=1000)
        [out] = llm.generate([prompt], params)
        assert out.finish_reason == "length"
        assert len(out.token_ids) == context - length
        assert out.token_ids == plain.generate([prompt], params)[0].token_ids
    with pytest.raises(ValueError, match="leaves room for"):
        llm.generate([[9] * context])
    assert complete(llm).token_ids == complete(plain).token_ids


@pytest.mark.parametrize(
    "option",
    ["structured_outputs", "guided_decoding", "response_format", "json_schema", "grammar", "regex"],
)
def test_structured_output_is_refused_and_not_ignored(option: str) -> None:
    with pytest.raises(TypeError, match=option):
        SamplingParams(**{option: {"type": "object"}})  # type: ignore[arg-type]


def test_requests_in_flight_do_not_mix_their_seeds(llm: LLM, plain: LLM) -> None:
    seeds = range(6)
    expected = {seed: complete(plain, replace(SAMPLED, seed=seed)).token_ids for seed in seeds}
    assert len({tuple(tokens) for tokens in expected.values()}) == len(seeds)
    found: dict[int, list[int]] = {}

    def work(seed: int) -> None:
        found[seed] = complete(llm, replace(SAMPLED, seed=seed)).token_ids

    workers = [threading.Thread(target=work, args=(seed,)) for seed in seeds]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == expected


def test_requests_without_a_seed_do_not_share_one_random_stream(llm: LLM, plain: LLM) -> None:
    """What a request draws depends on its own seed only, not on the requests before it."""
    unseeded = replace(SAMPLED, seed=None)
    outs = [complete(llm, unseeded) for _ in range(4)]
    assert len({out.seed for out in outs}) == len(outs)
    assert len({tuple(out.token_ids) for out in outs}) == len(outs)
    for out in reversed(outs):
        assert complete(plain, replace(SAMPLED, seed=out.seed)).token_ids == out.token_ids


def test_acceptance_does_not_vary_from_run_to_run(llm: LLM, bundle: Path) -> None:
    greedy = replace(SAMPLED, temperature=0, seed=None, repetition_penalty=1.3)

    def counts(one: LLM) -> list[tuple[int, int, int]]:
        return [(r.drafted, r.accepted, r.committed) for r in complete(one, greedy).metrics.rounds]

    first = counts(llm)
    assert 0 < sum(accepted for _, accepted, _ in first) < sum(drafted for drafted, *_ in first)
    complete(llm)  # another request in between leaves nothing behind
    assert counts(llm) == first
    assert counts(LLM(bundle, method=llm.method, num_speculative_tokens=4, threads=3)) == first


def test_metrics_of_a_request_add_up(llm: LLM) -> None:
    metrics = complete(llm).metrics
    drafting = metrics.speculative_decoding
    assert drafting is not None
    rounds = metrics.rounds
    assert metrics.prompt_tokens == len(PROMPT)
    assert metrics.completion_tokens == 80 == 1 + sum(r.committed for r in rounds)
    if llm.method == "pearl":  # judges the draft of the round before, and goes on if all held
        assert all(max(r.accepted, r.drafted) <= 4 for r in rounds)
        assert all(r.committed - r.accepted in (0, 1) for r in rounds)
    else:
        assert all(r.accepted <= r.drafted <= 4 for r in rounds)
        assert all(r.committed == r.accepted + 1 for r in rounds[:-1])
    assert drafting.num_spec_steps == len(rounds)
    assert drafting.num_draft_tokens == sum(r.drafted for r in rounds)
    assert sum(drafting.accepted_at_position) == drafting.num_accepted_draft_tokens
    assert drafting.accepted_at_position == sorted(drafting.accepted_at_position, reverse=True)
    assert drafting.mean_acceptance_length == 79 / len(rounds)
    assert 0 < drafting.draft_acceptance_rate < 1


def test_speed_counts_tokens_and_not_stream_chunks(llm: LLM) -> None:
    chunks = list(llm.stream(PROMPT, SAMPLED))
    output = chunks[-1].output
    assert output is not None
    metrics = output.metrics
    with_tokens = [chunk for chunk in chunks if chunk.token_ids]
    assert len(with_tokens) < sum(len(chunk.token_ids) for chunk in chunks) == 80
    assert metrics.completion_tokens == 80
    assert metrics.ttft_ms + 79 * metrics.tpot_ms == pytest.approx(metrics.total_ms)
    assert metrics.tokens_per_second == pytest.approx(1000 / metrics.tpot_ms)


def test_the_method_in_effect_is_reported(bundle: Path, plain: LLM, tmp_path: Path) -> None:
    for method in METHODS:
        llm = LLM(bundle, method=method, num_speculative_tokens=3, threads=1)
        assert (llm.method, llm.num_speculative_tokens) == (method, 3)
        out = complete(llm)
        assert out.method == method
        assert out.metrics.speculative_decoding is not None
    out = complete(plain)
    assert (out.method, out.metrics.speculative_decoding) == ("autoregressive", None)
    model = write_tiny_llama(tmp_path / "model", TinyLlama(layers=1))
    alone = build(model, out=tmp_path / "bundle", progress=False, tune=False)
    assert LLM(bundle, threads=1).method == "speculative"
    assert LLM(alone, threads=1).method == "autoregressive"
    with pytest.raises(ValueError, match="no draft model"):
        LLM(alone, method="speculative")


MEASURE = """
import pathlib, re, sys
from specrt import LLM, SamplingParams, _core

def kilobytes(field):
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(field + r":\\s+(\\d+) kB", status)[1])

"""


def measured(program: str, bundle: Path) -> int:
    """The number that `program` prints behind MEASURE, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE + program, str(bundle)],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


def test_the_drafter_takes_no_more_memory_than_its_engine_says(tmp_path: Path) -> None:
    """Reserved address space, so that memory counts that is not touched yet."""
    model = write_tiny_llama(tmp_path / "model", TinyLlama(context=500_000))
    bundle = build(model, draft=model, out=tmp_path / "bundle", progress=False, tune=False)
    program = (
        "llms = []\n"
        "def growth(method):\n"
        "    before = kilobytes('VmSize')\n"
        "    llms.append(LLM(sys.argv[1], method=method, threads=1))\n"
        "    return kilobytes('VmSize') - before\n"
        "growth('autoregressive')\n"
        "sizes = _core.inspect_engine(sys.argv[1] + '/target.engine')\n"
        "engine = sizes['kv_bytes'] + sizes['file_bytes'] + sizes['activation_bytes']\n"
        "more = growth('speculative') - growth('autoregressive')\n"
        "print(100 * more * 1024 // engine)\n"
    )
    assert 80 < measured(program, bundle) < 140  # % of the drafter's share; a second KV makes 200


def test_memory_does_not_grow_from_request_to_request(bundle: Path) -> None:
    program = (
        "llm = LLM(sys.argv[1], method='ngram+speculative', threads=2)\n"
        "params = SamplingParams(max_tokens=60, logprobs=3)\n"
        "def work(times):\n"
        "    for _ in range(times):\n"
        "        llm.generate('Hello', params)\n"
        "        next(llm.stream('Hello', params))\n"
        "        try: llm.generate([[5] * 300])\n"
        "        except ValueError: pass\n"
        "work(50)\n"
        "before = kilobytes('VmRSS')\n"
        "work(200)\n"
        "print(kilobytes('VmRSS') - before)\n"
    )
    assert measured(program, bundle) < 2000  # kilobytes; 200 requests
