"""Loops over two executors, stand-ins for TensorRT-LLM's: the output is the target's own."""

import json
import random
import threading
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import specrt
from reference.llama import chain, forward, load
from reference.tiny_llama import Head, TinyLlama, write_tiny_llama
from reference.unified_checkpoint import rebuild
from specrt.build.source import Source
from specrt.trtllm import generator as generator_module
from specrt.trtllm.checkpoint import read_model, write_checkpoint
from specrt.trtllm.executor import Engine, Placement, read_shape
from specrt.trtllm.generator import METHODS, Generator, Output, open_generator
from specrt.trtllm.preflight import Obstacle, PreflightError
from stand_in_bindings import BLOCK, Fault, Next, StandIn

VOCAB = 50
PROMPT = [7, 3, 11]


def target_token(text: Sequence[int]) -> int:
    """What the target chooses: any function of the text."""
    return random.Random(str([*text[-5:], len(text)])).randrange(VOCAB)


def draft_token(acceptance: float) -> Next:
    """What a draft model chooses that is right with a probability."""

    def choose(text: Sequence[int]) -> int:
        is_right = random.Random("draft" + str(list(text))).random() < acceptance
        return (target_token(text) + (not is_right)) % VOCAB

    return choose


def own_output(count: int, prompt: Sequence[int] = PROMPT) -> list[int]:
    """The target's own greedy output."""
    text = list(prompt)
    for _ in range(count):
        text.append(target_token(text))
    return text[len(prompt) :]


def write_engine(root: Path, name: str, **changes: Any) -> Path:
    """The config of an engine as trtllm-build leaves it; there is no engine beside it."""
    folder = root / name / "engine"
    folder.mkdir(parents=True, exist_ok=True)
    built = {"max_input_len": 400, "max_seq_len": 400, "max_draft_len": 0} | changes
    model = {"vocab_size": changes.pop("vocab", VOCAB), "mapping": {"world_size": 1}}
    config = {"version": "stand-in", "pretrained_config": model, "build_config": built}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def make(
    root: Path,
    module: StandIn,
    method: str,
    drafts: int = 8,
    count: int | None = None,
    **draft_limits: Any,
) -> Generator:
    target = Engine(module, write_engine(root, "target", max_draft_len=drafts), Placement(0.6))
    draft = Engine(module, write_engine(root, "draft", **draft_limits), Placement(0.9))
    return Generator(target, draft, method=method, num_speculative_tokens=count)


def module_of(acceptance: float = 0.7, fault: Fault = Fault.NONE, **fields: Any) -> StandIn:
    engines = {"target": target_token, "draft": draft_token(acceptance)}
    return StandIn(engines, fault, **fields)


def committed(output: Output) -> int:
    return sum(each.committed for each in output.rounds)


@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("method", METHODS)
def test_output_is_the_targets_own(method: str, fault: Fault, tmp_path: Path) -> None:
    for acceptance in (0.0, 0.3, 0.7, 0.95, 1.0):
        for count in (1, 2, 5, 8):
            module = module_of(acceptance, fault)
            with make(tmp_path, module, method, count=count) as one:
                for most in (1, 2, 9, 40):
                    output = one.generate(PROMPT, most)
                    assert output.token_ids == own_output(most), (acceptance, count, most)
                    assert output.finish_reason == "length"
                    assert committed(output) == most
                    open_requests = [each.open_requests for each in module.executors.values()]
                    assert open_requests == [0, 0]
            assert module.problems == []


def test_random_drafts_of_random_lengths(tmp_path: Path) -> None:
    choose = random.Random(5)
    for _ in range(60):
        acceptance, fault = choose.random(), choose.choice(list(Fault))
        method, count = choose.choice(METHODS[1:]), choose.randint(1, 8)
        prompt = [choose.randrange(VOCAB) for _ in range(choose.randint(1, 60))]
        most = choose.randint(1, 50)
        with make(tmp_path, module_of(acceptance, fault), method, count=count) as one:
            assert one.generate(prompt, most).token_ids == own_output(most, prompt)


@pytest.mark.parametrize("method", METHODS)
def test_it_ends_at_the_first_end_token(method: str, tmp_path: Path) -> None:
    own = own_output(40)
    for at in range(0, 40, 3):
        first = own.index(own[at])
        module = module_of(0.95)
        with make(tmp_path, module, method) as one:
            output = one.generate(PROMPT, 40, {own[at]})
        assert output.token_ids == own[: first + 1]
        assert output.finish_reason == "stop"
        assert committed(output) == first + 1
        assert all(each.open_requests == 0 for each in module.executors.values())


def test_rounds_of_speculation(tmp_path: Path) -> None:
    """A perfect draft of k gives k + 1 tokens a round, one that is never right gives one."""
    with make(tmp_path, module_of(1.0), "speculative", count=4) as one:
        assert [tuple(each) for each in one.generate(PROMPT, 20).rounds] == [(4, 4, 5)] * 4
    with make(tmp_path, module_of(0.0), "speculative", count=4) as one:
        rounds = one.generate(PROMPT, 6).rounds
    assert [tuple(each) for each in rounds] == [(n, 0, 1) for n in (4, 4, 3, 2, 1, 0)]


def test_rounds_of_pearl(tmp_path: Path) -> None:
    """Pre-verify judges one token; then a round verifies what was left, and what was drafted since.

    With 4 drafted tokens: 1 and 3 left; 3 and the first of 4, 3 left; and so on.
    """
    with make(tmp_path, module_of(1.0), "pearl", count=4) as one:
        rounds = [tuple(each) for each in one.generate(PROMPT, 17).rounds]
    assert rounds[:4] == [(1, 1, 1), (4, 4, 4), (4, 4, 4), (4, 4, 4)]
    with make(tmp_path, module_of(0.0), "pearl", count=4) as one:
        rounds = [tuple(each) for each in one.generate(PROMPT, 6).rounds]
    assert rounds == [(1, 0, 1)] * 5 + [(0, 0, 1)]


def requests_before_an_answer(events: list[tuple[str, str]]) -> list[set[str]]:
    """Which engines have a request, each time that one is waited for."""
    found, begun = [], set()
    for name, what in events:
        if what == "enqueue":
            begun.add(name)
        elif what == "await" and begun:
            found.append(begun)
            begun = set()
    return found


def test_pearl_drafts_while_the_target_verifies(tmp_path: Path) -> None:
    module = module_of(0.7)
    with make(tmp_path, module, "pearl") as one:
        rounds = one.generate(PROMPT, 60).rounds
    remaining = 60
    for each, begun in zip(rounds, requests_before_an_answer(module.events), strict=True):
        if remaining > one.num_speculative_tokens:  # else all that is left has been drafted
            assert begun == {"target", "draft"}
        remaining -= each.committed
    module = module_of(0.7)
    with make(tmp_path, module, "speculative") as one:
        one.generate(PROMPT, 30)
    assert {"target", "draft"} not in requests_before_an_answer(module.events)


def test_pearl_cancels_drafts_behind_a_refusal(tmp_path: Path) -> None:
    """The draft model makes a second token only if it is told that nobody waits for it."""
    module = module_of(0.0, stalls="draft")
    with make(tmp_path, module, "pearl") as one:
        assert one.generate(PROMPT, 4).token_ids == own_output(4)
    assert module.problems == []
    assert ("target", "cancel") not in module.events


def test_pearl_forgets_drafts_behind_a_refusal(tmp_path: Path) -> None:
    """With 4 drafted tokens and token 2 wrong: 1; 1 of 3, and token 2; 1 again; and so on."""

    def choose(text: Sequence[int]) -> int:
        return (target_token(text) + (len(text) == len(PROMPT) + 2)) % VOCAB

    module = StandIn({"target": target_token, "draft": choose})
    with make(tmp_path, module, "pearl", count=4) as one:
        rounds = [tuple(each) for each in one.generate(PROMPT, 40).rounds]
    assert rounds[:5] == [(1, 1, 1), (3, 1, 2), (1, 1, 1), (4, 4, 4), (4, 4, 4)]


@pytest.mark.parametrize("method", METHODS[1:])
def test_the_target_computes_only_what_is_new(method: str, tmp_path: Path) -> None:
    """Each text begins with the one before: at most a block and a draft are computed again."""
    module = module_of(0.7)
    with make(tmp_path, module, method) as one:
        one.generate(list(range(40)), 100)
    target = module.executors["target"]
    texts = [each.input_token_ids for each in target.requests]
    for before, after in pairwise(texts):
        assert after[: len(before)] == before
    assert max(target.computed[1:]) <= BLOCK + 9


def test_requests_stay_within_the_engines(tmp_path: Path) -> None:
    """A draft model with a shorter context drafts as far as it reaches."""
    for method in METHODS[1:]:
        module = module_of(0.9)
        limits = {"max_input_len": 20, "max_seq_len": 22}
        with make(tmp_path, module, method, **limits) as one:
            assert one.generate(PROMPT, 397).token_ids == own_output(397)
        assert max(len(each.input_token_ids) for each in module.executors["draft"].requests) <= 20


def test_executors_are_made_as_asked(tmp_path: Path) -> None:
    module = module_of()
    folder = write_engine(tmp_path, "target", max_draft_len=4)
    Engine(module, folder, Placement(0.5, device=1)).close()
    config = module.executors["target"].config
    assert config.parallel_config is not None
    assert config.parallel_config.device_ids == [1]
    assert config.kv_cache_config.free_gpu_memory_fraction == 0.5
    assert config.kv_cache_config.enable_block_reuse
    assert config.enable_chunked_context
    assert module.executors["target"].is_shut_down


@pytest.mark.parametrize("method", METHODS)
def test_an_error_of_the_executor_is_told(method: str, tmp_path: Path) -> None:
    module = module_of(0.7, broken_after=0 if method == "autoregressive" else 3)
    with make(tmp_path, module, method) as one:
        with pytest.raises(specrt.Error, match="target/engine: stand-in: CUDA error"):
            one.generate(PROMPT, 60)
        assert all(each.open_requests == 0 for each in module.executors.values())


def test_an_interrupt_ends_all_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = module_of(0.7, Fault.SLOW)
    with make(tmp_path, module, "pearl") as one:
        calls = iter([False, False, False, True])

        def interrupted(*_: object, **__: object) -> int:
            if next(calls):
                raise KeyboardInterrupt
            return 0

        monkeypatch.setattr(generator_module, "_common", interrupted)
        with pytest.raises(KeyboardInterrupt):
            one.generate(PROMPT, 60)
        monkeypatch.undo()
        assert all(each.open_requests == 0 for each in module.executors.values())
        assert one.generate(PROMPT, 10).token_ids == own_output(10)


def test_two_threads_wait_for_each_other(tmp_path: Path) -> None:
    prompts = {name: [name, name + 1] for name in range(4)}
    outputs: dict[int, list[int]] = {}
    with make(tmp_path, module_of(0.7, Fault.SLOW), "pearl") as one:

        def run(name: int) -> None:
            outputs[name] = one.generate(prompts[name], 20).token_ids

        threads = [threading.Thread(target=run, args=(name,)) for name in prompts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert outputs == {name: own_output(20, prompt) for name, prompt in prompts.items()}


WRONG = [
    ("medusa", 8, 4, {}, "method must be one of"),
    ("pearl", 8, 9, {}, "1 to 8 drafted tokens, not 9"),
    ("speculative", 8, 0, {}, "not 0"),
    ("speculative", 0, None, {}, "1 to 0 drafted tokens"),
    ("pearl", 8, 4, {"vocab": 49}, "different vocabularies"),
]


@pytest.mark.parametrize(("method", "drafts", "count", "limits", "words"), WRONG)
def test_wrong_generators(
    method: str,
    drafts: int,
    count: int | None,
    limits: dict[str, int],
    words: str,
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match=words):
        make(tmp_path, module_of(), method, drafts, count, **limits)


REQUESTS = [
    ([], 1, "at least one token"),
    ([1], 0, "at least one token"),
    ([1] * 300, 101, "more than the 400"),
    ([VOCAB], 1, "not below 50"),
]


@pytest.mark.parametrize(("prompt", "most", "words"), REQUESTS)
def test_wrong_requests(prompt: list[int], most: int, words: str, tmp_path: Path) -> None:
    with (
        make(tmp_path, module_of(), "pearl") as one,
        pytest.raises(ValueError, match=words),
    ):
        one.generate(prompt, most)


def test_engines_of_several_ranks_are_refused(tmp_path: Path) -> None:
    folder = write_engine(tmp_path, "target")
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_config"]["mapping"]["world_size"] = 2
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(specrt.Error, match="2 ranks"):
        read_shape(folder)


@pytest.fixture
def built(tmp_path: Path) -> Iterator[Path]:
    """A folder as the build leaves it, but for the engines."""
    write_engine(tmp_path, "target", max_draft_len=8)
    write_engine(tmp_path, "draft")
    write_manifest(tmp_path, "target")
    yield tmp_path


def write_manifest(root: Path, role: str, **changes: Any) -> None:
    models = [
        {"name": name, "role": kind, "engine": {}} | changes
        for name, kind in (("target", role), ("draft", "draft"))
    ]
    manifest = {"format": "specrt-tensorrt-llm", "format_version": 1, "models": models}
    (root / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("method", [None, *METHODS])
def test_a_folder_is_opened(
    method: str | None, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = module_of()
    monkeypatch.setattr(generator_module, "load_bindings", lambda: module)
    with open_generator(built, method=method, target_device=0, draft_device=1) as one:
        assert one.method == (method or "speculative")
        assert one.generate(PROMPT, 12).token_ids == own_output(12)
    assert ("draft" in module.executors) == (method != "autoregressive")
    assert all(each.is_shut_down for each in module.executors.values())


def test_folders_that_cannot_be_run(built: Path) -> None:
    write_manifest(built, "medusa")
    with pytest.raises(specrt.Error, match="target for medusa"):
        open_generator(built)
    write_manifest(built, "target", engine=None)
    with pytest.raises(specrt.Error, match="without engines"):
        open_generator(built)
    (built / "manifest.json").write_text(json.dumps({"format": "specrt-bundle"}))
    with pytest.raises(specrt.Error, match="--backend tensorrt-llm"):
        open_generator(built)


def test_without_tensorrt_llm_it_says_so(built: Path) -> None:
    with pytest.raises(PreflightError) as caught:
        open_generator(built)
    assert caught.value.obstacle is Obstacle.PACKAGE


def test_checkpoints_generate_what_their_models_do(tmp_path: Path) -> None:
    """From Hugging Face weights to tokens; the stand-in computes what is in the checkpoints."""
    shapes = {
        "target": TinyLlama(layers=2, head=Head.UNTIED, dtype="bf16"),
        "draft": TinyLlama(layers=1, dtype="bf16", seed=3),
    }
    engines: dict[str, Next] = {}
    for name, shape in shapes.items():
        source = Source(name, write_tiny_llama(tmp_path / f"{name}-hf", shape), None)
        checkpoint = tmp_path / name / "checkpoint"
        write_checkpoint(read_model(source, 2), checkpoint)
        model = rebuild(checkpoint)
        engines[name] = lambda text, model=model: int(
            np.argmax(forward(model, chain(list(text))).logits[-1])
        )
        write_engine(tmp_path, name, max_draft_len=4, vocab=shape.vocab)
    original, text = load(tmp_path / "target-hf", np.float32), list(PROMPT)
    for _ in range(12):
        text.append(int(np.argmax(forward(original, chain(text)).logits[-1])))
    module = StandIn(engines)
    folders = {name: tmp_path / name / "engine" for name in shapes}
    pair = [Engine(module, folders[name], Placement(0.5)) for name in ("target", "draft")]
    with Generator(*pair, method="pearl") as one:
        assert one.generate(PROMPT, 12).token_ids == text[len(PROMPT) :]
