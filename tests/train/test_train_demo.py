"""The parts of the demo training, on tiny models: data, generation, acceptance, distillation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from specrt.train import acceptance, causal, data, distill, folders, generate, llama, schedule

SHAPE = llama.LlamaShape(64, 32, 2, 48, 4, 2, 8, 10000.0, 1e-6)


def tiny(seed: int) -> llama.Llama:
    torch.manual_seed(seed)
    model = llama.Llama(SHAPE)
    with torch.no_grad():  # random but decided, and not by the last token alone
        for name, weight in model.named_parameters():
            if weight.dim() == 2:
                weight.mul_(20.0 if "embed" in name or "o_proj" not in name else 80.0)
    return model


def example(random: np.random.Generator, prompt: int, answer: int) -> data.Example:
    return data.Example(random.integers(6, 64, prompt + answer).astype(np.int32), prompt)


def test_folder_is_what_hugging_face_reads(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = tiny(0)
    tokenizer = folders.train_tokenizer(["a few words", "of some text"])
    folders.write_tokenizer(tokenizer, tmp_path)
    folders.write_model(model, tmp_path, tmp_path)
    again = llama.load_llama(tmp_path)
    ids = torch.randint(0, 64, (2, 17))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(again.logits(again(ids)), theirs(ids).logits)
    chat = AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(
        [{"role": "user", "content": "words"}], tokenize=False, add_generation_prompt=True
    )
    assert chat == data.render_prompt("words")


def test_batches_learn_answers_and_follow_the_mix() -> None:
    random = np.random.default_rng(0)
    text = {
        "short": [example(random, 10, 20) for _ in range(50)],
        "long": [example(random, 30, 90) for _ in range(50)],
    }
    stream = data.example_stream(text, {"short": 0.5, "long": 0.5}, 3)
    sizes = [len(next(stream).ids) for _ in range(4000)]
    assert sum(n for n in sizes if n == 30) / sum(sizes) == pytest.approx(0.5, abs=0.05)
    batch = next(data.batch_stream(stream, 512, 0.0, 4))
    learned = torch.zeros(batch.ids.numel(), dtype=torch.bool)
    learned[batch.positions] = True
    start = 10 if batch.ids.shape[1] == 64 else 30
    end = 30 if start == 10 else 120
    expected = torch.zeros_like(batch.ids, dtype=torch.bool)
    expected[:, start - 1 : end - 1] = True
    assert torch.equal(learned.view_as(expected), expected)
    assert torch.equal(batch.ids[:, 1:end], batch.targets[:, : end - 1])


def test_generated_batch_equals_one_by_one() -> None:
    model = tiny(1)
    prompts = np.random.default_rng(2).integers(6, 64, (9, 11)).astype(np.int32)
    with torch.autocast("cpu", enabled=False):
        answers = generate.generate_batch(model, prompts, 24, 0.0, 0)
    for prompt, scored in zip(prompts, answers, strict=True):
        fresh = scored.example.ids[11:]
        assert np.array_equal(scored.example.ids[:11], prompt)
        assert np.array_equal(scored.top_ids[:, 0], fresh)
        assert len(fresh) == 24 or fresh[-1] in (data.END_OF_TURN, data.END_OF_TEXT)
        with torch.inference_mode():
            ids = torch.from_numpy(scored.example.ids.astype(np.int64))[None, :-1]
            logp = model.logits(model(ids))[0, 10:].log_softmax(-1)
        kept = logp.gather(-1, torch.from_numpy(scored.top_ids.astype(np.int64)))
        assert np.abs(kept.numpy() - scored.top_logp).mean() < 0.1  # bf16 against f32


def test_shards_come_back(tmp_path: Path) -> None:
    prompts = np.random.default_rng(2).integers(6, 64, (3, 5)).astype(np.int32)
    answers = generate.generate_batch(tiny(1), prompts, 8, 0.8, 0)
    generate.save_shard(tmp_path / "answers-0000.npz", answers)
    for one, two in zip(answers, generate.load_shards(tmp_path), strict=True):
        assert np.array_equal(one.example.ids, two.example.ids)
        assert np.array_equal(one.top_logp, two.top_logp)


def test_rounds() -> None:
    yes, no = True, False
    assert acceptance.count_rounds([yes] * 7, 6) == 1
    assert acceptance.count_rounds([yes] * 8, 6) == 2
    assert acceptance.count_rounds([no, yes, no, no], 6) == 3
    assert acceptance.count_rounds([], 6) == 0


def test_acceptance_is_that_of_a_decoding_loop() -> None:
    target, draft = tiny(3), tiny(3)
    with torch.no_grad():
        draft.norm.weight.add_(0.3 * torch.randn(SHAPE.width))
    prompt = np.arange(6, 16, dtype=np.int32)
    answer = acceptance.greedy_answer(target, prompt, 40)
    total = acceptance.measure_acceptance(draft, [prompt], [answer], 4)
    path = prompt.tolist() + answer

    def best(model: llama.Llama, ids: list[int]) -> int:
        with torch.inference_mode():
            return int(model.logits(model(torch.tensor([ids]))[0, -1]).argmax())

    at, rounds = len(prompt) + 1, 0
    while at < len(path):
        drafted: list[int] = []
        while len(drafted) < 4:
            drafted.append(best(draft, path[:at] + drafted))
        accepted = 0
        while accepted < 4 and path[at : at + accepted + 1] == drafted[: accepted + 1]:
            accepted += 1
        at, rounds = at + accepted + 1, rounds + 1
    assert total.rounds == rounds
    assert total.tokens == len(answer) - 1


def test_looping() -> None:
    assert acceptance.is_looping(list(range(10)) * 3)
    assert not acceptance.is_looping(list(range(30)))


def test_distillation_loss_is_lowest_at_the_teacher() -> None:
    random = np.random.default_rng(0)
    target = tiny(4)
    batch = data.make_batch([example(random, 4, 20) for _ in range(4)], 64, 0.0, random)
    scored = distill.score_batch(target, batch)

    def loss(model: llama.Llama) -> float:
        with torch.no_grad():
            hidden = model(scored.ids).reshape(-1, SHAPE.width)[scored.positions]
            return float(distill.distillation_loss(model)(hidden, scored))

    entropy = -scored.top_logp[:, 0].mean().item() * distill.ARGMAX_WEIGHT
    assert loss(target) == pytest.approx(entropy, abs=0.02)
    assert loss(tiny(5)) > loss(target) + 0.1


def test_fit_learns_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda module: module)
    random = np.random.default_rng(0)
    text = {"one": [example(random, 4, 30) for _ in range(4)]}

    def batches(used: int):  # type: ignore[no-untyped-def]
        return data.batch_stream(data.example_stream(text, {"one": 1.0}, used), 512, 0.1, used)

    model = tiny(6)
    first = causal.answer_loss(model, text)["one"]
    for minutes in (0.05, 0.1):
        options = causal.TrainOptions(minutes, schedule.Schedule(0.1, 0.5), 1e-2, 1e-2, 1)
        objective = causal.Objective(causal.next_token_loss(model), dict)
        done = causal.fit(model, batches, objective, options, tmp_path / "run.pt")
    assert causal.answer_loss(model, text)["one"] < first - 0.5
    resumed = tiny(7)
    objective = causal.Objective(causal.next_token_loss(resumed), dict)
    again = causal.fit(resumed, batches, objective, options, tmp_path / "run.pt")
    assert (again.steps, again.tokens) == (done.steps, done.tokens)
    assert torch.equal(resumed.norm.weight, model.norm.weight)


def test_schedule() -> None:
    plan = schedule.Schedule(0.1, 0.5)
    assert plan.factor(0.05) == pytest.approx(0.5)
    assert plan.factor(0.3) == 1.0
    assert plan.factor(0.75) == pytest.approx(0.5)
    assert plan.factor(1.0) == pytest.approx(1e-3)
