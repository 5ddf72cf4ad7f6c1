"""The drafting method never changes the output: many prompts, greedy and sampled."""

from pathlib import Path

import pytest
from backends import by_backend
from bundles import bundle_of, tiny_model
from reference.tiny_llama import write_tiny_llama
from specrt import LLM, SamplingParams

TOKENS = by_backend(cpu=40, cuda=24)
# Of the drafted tokens, accepted at least: on CUDA both models are random.
ACCEPTED = by_backend(cpu=0.2, cuda=0.05)


@pytest.fixture(scope="module")
def autoregressive(demo_bundle: Path) -> LLM:
    return LLM(demo_bundle, method="autoregressive", threads=2)


@pytest.fixture(scope="module")
def speculative(demo_bundle: Path) -> LLM:
    return LLM(demo_bundle, method="speculative", num_speculative_tokens=5, threads=2)


def chat_prompts(llm: LLM, prompts: list[dict[str, str]]) -> list[str]:
    return [
        llm.tokenizer.apply_chat_template([{"role": "user", "content": row["prompt"]}])
        for row in prompts
    ]


@pytest.mark.parametrize("temperature", [0.0, 0.8, 1.0])
def test_methods_agree_on_many_prompts(
    temperature: float,
    autoregressive: LLM,
    speculative: LLM,
    prompts: list[dict[str, str]],
) -> None:
    assert len(prompts) == by_backend(cpu=200, cuda=4)
    drafted = accepted = 0
    for number, prompt in enumerate(chat_prompts(autoregressive, prompts)):
        params = SamplingParams(temperature=temperature, max_tokens=TOKENS, seed=number)
        [plain] = autoregressive.generate(prompt, params)
        [fast] = speculative.generate(prompt, params)
        assert fast.token_ids == plain.token_ids, prompts[number]["id"]
        assert fast.finish_reason == plain.finish_reason
        speculation = fast.metrics.speculative_decoding
        if speculation is not None:
            drafted += speculation.num_draft_tokens
            accepted += speculation.num_accepted_draft_tokens
    # The comparison means something only if drafts were accepted and refused.
    assert ACCEPTED * drafted < accepted < drafted


@pytest.mark.parametrize("draft_tokens", by_backend(cpu=[1, 2, 3, 8, 20, 63], cuda=[1, 8, 63]))
@pytest.mark.parametrize("run_ahead", [0, 1, 2])
def test_methods_agree_for_every_draft_length(
    draft_tokens: int,
    run_ahead: int,
    demo_bundle: Path,
    autoregressive: LLM,
    prompts: list[dict[str, str]],
) -> None:
    llm = LLM(
        demo_bundle,
        method="speculative",
        num_speculative_tokens=draft_tokens,
        run_ahead=run_ahead,
        threads=2,
    )
    tokens = by_backend(cpu=48, cuda=16)
    params = SamplingParams(
        temperature=0.7, top_k=50, top_p=0.95, min_p=0.02, max_tokens=tokens, seed=3
    )
    for prompt in chat_prompts(llm, prompts[:: by_backend(cpu=50, cuda=4)]):
        [plain] = autoregressive.generate(prompt, params)
        [fast] = llm.generate(prompt, params)
        assert fast.token_ids == plain.token_ids


def test_threads_and_rows_do_not_change_the_output(
    demo_bundle: Path, autoregressive: LLM, prompts: list[dict[str, str]]
) -> None:
    params = SamplingParams(temperature=0, max_tokens=TOKENS)
    for threads in by_backend(cpu=(1, 3), cuda=(1,)):
        llm = LLM(demo_bundle, method="speculative", num_speculative_tokens=4, threads=threads)
        for prompt in chat_prompts(llm, prompts[:: by_backend(cpu=40, cuda=4)]):
            [plain] = autoregressive.generate(prompt, params)
            assert llm.generate(prompt, params)[0].token_ids == plain.token_ids


def test_the_same_bundle_serves_as_its_own_drafter(
    demo_models: Path, tmp_path: Path, prompts: list[dict[str, str]]
) -> None:
    """A drafter equal to the target is always right, greedy and sampled alike."""
    target = demo_models / "target"
    bundle = bundle_of(target, tmp_path / "bundle", draft=target)
    llm = LLM(bundle, method="speculative", num_speculative_tokens=4, threads=2)
    for temperature in (0.0, 1.0):
        params = SamplingParams(temperature=temperature, max_tokens=61, ignore_eos=True, seed=11)
        [out] = llm.generate(prompts[0]["prompt"], params)
        speculation = out.metrics.speculative_decoding
        assert speculation is not None
        assert speculation.draft_acceptance_rate == 1.0
        assert speculation.mean_acceptance_length == 5.0


@pytest.mark.parametrize("dtype", by_backend(cpu=["f32", "bf16"], cuda=["bf16"]))
@pytest.mark.parametrize("kind", ["mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_methods_agree_with_a_window(
    temperature: float, kind: str, dtype: str, tmp_path: Path
) -> None:
    """The drafter is the target without the window: right for some of the tokens."""
    target, draft = (
        write_tiny_llama(tmp_path / name, tiny_model(architecture=kind, window=window))
        for name, window in (("target", 23), ("draft", None))
    )
    bundle = bundle_of(target, tmp_path / "bundle", draft=draft, dtype=dtype)
    plain = LLM(bundle, method="autoregressive", threads=1)
    tokens = by_backend(cpu=90, cuda=30)
    params = SamplingParams(temperature=temperature, max_tokens=tokens, ignore_eos=True, seed=5)
    prompt = "A window slides over the text"
    [expected] = plain.generate(prompt, params)
    drafted = accepted = 0
    for draft_tokens in by_backend(cpu=(1, 4, 20), cuda=(1, 6)):
        llm = LLM(bundle, method="speculative", num_speculative_tokens=draft_tokens, threads=2)
        [out] = llm.generate(prompt, params)
        assert out.token_ids == expected.token_ids
        speculation = out.metrics.speculative_decoding
        assert speculation is not None
        drafted += speculation.num_draft_tokens
        accepted += speculation.num_accepted_draft_tokens
    assert 0 < accepted < drafted
