"""The peers' helpers: file formats, reading what the programs print, and the peers in Python."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from reference.tiny_llama import TinyLlama, write_tiny_llama
from specrt.eval.peers import cli, gguf_export, hf, llamacpp, own, report
from specrt.eval.peers.llamacpp_build import LlamaCpp
from specrt.eval.peers.prompts import Text
from specrt.eval.peers.raw_safetensors import read_folder, write_bf16
from specrt.eval.peers.records import Generation, PeerError, Prompt, Settings, Variant

PROMPT = Prompt("p", "Hi\n", (5, 206))
SETTINGS = Settings(1, 8, (4,), (1, 8), 16, 4, 2)


class FakeText:
    """One token per character."""

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(map(ord, text))

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))

    def prompt(self, name: str, text: str) -> Prompt:
        return Prompt(name, text, self.encode(text))


def test_safetensors_round_trip(tmp_path: Path) -> None:
    bits = np.arange(12, dtype=np.uint16).reshape(3, 4)
    write_bf16(tmp_path / "model.safetensors", {"w": bits, "x": bits[0]})
    read = dict(read_folder(tmp_path))
    np.testing.assert_array_equal(read["w"].as_bf16_bits(), bits)
    np.testing.assert_array_equal(read["x"].as_f32().view(np.uint32) >> 16, bits[0])


def test_rope_halves_are_interleaved() -> None:
    rows = np.arange(8, dtype=np.uint16).reshape(8, 1)  # two heads of four
    assert gguf_export._interleave(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_export_refuses_what_it_does_not_carry() -> None:
    with pytest.raises(ValueError, match="llama3"):
        gguf_export._check({"model_type": "llama", "rope_scaling": {"rope_type": "llama3"}})
    with pytest.raises(ValueError, match="qwen2"):
        gguf_export._check({"model_type": "qwen2"})


def setup(tmp_path: Path) -> llamacpp._Setup:
    gguf = tmp_path / "m.gguf"
    text = FakeText()
    return llamacpp._Setup(LlamaCpp(tmp_path, "x"), tmp_path, gguf, gguf, text, SETTINGS)  # type: ignore[arg-type]


PLAIN_LOG = """0.00.1 I      5 -> 'Hi'
0.00.1 I    206 -> '
'
0.02.3 I common_perf_print:    sampling time =       2.00 ms
0.02.3 I common_perf_print: prompt eval time =      40.00 ms /     2 tokens (    0.67 ms ...
0.02.3 I common_perf_print:        eval time =      98.00 ms /     4 runs   (   52.32 ms ...
"""

SPECULATIVE_LOG = """0.03 I encoded    2 tokens in    0.040 seconds, speed: 1568.013 t/s
0.03 I decoded    7 tokens in    0.060 seconds, speed:   76.900 t/s
0.03 I n_predict = 7
0.03 I n_drafted = 8
0.03 I n_accept  = 5
"""


def test_plain_output_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llamacpp, "_run", lambda *_: ("abcd [end of text]\n\n\n", PLAIN_LOG))
    got = llamacpp._plain(setup(tmp_path), PROMPT)
    assert (got.text, got.tokens, got.decode_tokens) == ("abcd", 5, 4)
    assert got.prefill_s == pytest.approx(0.04)
    assert got.decode_s == pytest.approx(0.1)


def test_other_prompt_ids_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llamacpp, "_run", lambda *_: ("", PLAIN_LOG))
    with pytest.raises(PeerError, match="tokenizes"):
        llamacpp._plain(setup(tmp_path), Prompt("p", "Hi\n", (5, 207)))


def test_speculative_does_not_count_behind_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = "\n\nHi\nabcd\n\n\n\n"
    monkeypatch.setattr(llamacpp, "_run", lambda *_: (out, SPECULATIVE_LOG))
    got = llamacpp._speculative(setup(tmp_path), 4, PROMPT)
    assert (got.text, got.tokens, got.rounds, got.accepted) == ("abcd", 5, 2, 5)


def test_own_measures_the_methods_of_a_bundle(demo_bundle: Path) -> None:
    text = Text(demo_bundle)
    peer = own.measure_own(demo_bundle, text, SETTINGS, ("speculative", "telepathy"))
    plain, fast = peer.variants
    assert plain.label == "autoregressive"
    assert fast.label.startswith("speculative k<=")
    assert [item.label for item in peer.missing] == ["telepathy"]
    assert [step.rows for step in peer.steps] == [1, 8]
    assert all(step.ms > 0 for step in peer.steps)
    prompt = text.prompt("p", "Say hello.")
    assert plain.generate(prompt).text == fast.generate(prompt).text


@pytest.fixture
def tiny_models(tmp_path: Path) -> tuple[Path, Path]:
    target = write_tiny_llama(tmp_path / "target", TinyLlama())
    return target, write_tiny_llama(tmp_path / "draft", TinyLlama(layers=1, seed=2))


@pytest.fixture
def torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_hf_drafts_in_every_way(tiny_models: tuple[Path, Path], torch_threads: None) -> None:
    target, draft = tiny_models
    text = Text(target)
    settings = replace(SETTINGS, max_new_tokens=40)  # enough to repeat itself
    peer = hf.measure_hf(target, draft, text, settings, ("f32",))
    assert {variant.label for variant in peer.variants} == {
        *("plain f32", "prompt-lookup 4 f32", "assisted default f32", "assisted 4 f32"),
    }
    assert {variant.baseline for variant in peer.variants} == {"plain f32"}
    plain, *drafted = [v.generate(text.prompt("p", "ab ab ab")) for v in peer.variants]
    assert plain.rounds == plain.tokens - 1 == 39
    for output in drafted:
        assert output.text == plain.text
        assert output.rounds is not None and output.rounds < plain.rounds
    assert [step.rows for step in peer.steps] == [1, 8]


def test_hf_looks_up_without_a_draft_model(
    tiny_models: tuple[Path, Path], torch_threads: None
) -> None:
    target, _ = tiny_models
    peer = hf.measure_hf(target, None, Text(target), SETTINGS, ("f32",))
    assert [v.label for v in peer.variants] == ["plain f32", "prompt-lookup 4 f32"]
    assert [item.label for item in peer.missing] == ["assisted"]


def test_rows_compare_with_the_peers_own_plain() -> None:
    def generation(seconds: float, text: str) -> Generation:
        return Generation(text, 10, 0.1, seconds, 10, rounds=5, drafted=10, accepted=5)

    def fail(_: Prompt) -> Generation:
        raise PeerError("broken")

    variants = [
        Variant("a", "plain", "plain", lambda _: generation(1.0, "x")),
        Variant("a", "fast", "plain", lambda _: generation(0.5, "y")),
        Variant("b", "plain", "plain", fail),
    ]
    runs, missing = report.run_variants(variants, [PROMPT], 2)
    rows = report.make_rows(variants, runs, "a plain")
    assert [row.x_plain for row in rows] == [1.0, 2.0]
    assert [row.same_text for row in rows] == [1, 0]
    assert [row.mean_acceptance_length for row in rows] == [2.0, 2.0]
    assert [item.reason for item in missing] == ["broken"]


def test_the_json_file_is_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", "nowhere", "--threads", "1", "--json", str(tmp_path / "none" / "x.json")]
    with pytest.raises(SystemExit):
        cli.main(words)
    assert "no folder" in capsys.readouterr().err
