"""The peers' helpers: file formats, and reading what the programs print. Runs no peer."""

from pathlib import Path

import numpy as np
import pytest
from specrt.eval.peers import gguf_export, llamacpp, own, report
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
    assert fast.label.startswith("speculative k=")
    assert [item.label for item in peer.missing] == ["telepathy"]
    assert [step.rows for step in peer.steps] == [1, 8]
    assert all(step.ms > 0 for step in peer.steps)
    prompt = text.prompt("p", "Say hello.")
    assert plain.generate(prompt).text == fast.generate(prompt).text


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
