"""The command line of trtllm-build, word for word, for every role."""

import pytest
from specrt.build import BuildError
from specrt.trtllm.roles import Limits, Lookahead, Role, build_command
from specrt.trtllm.unified import Dtype

COMMON = (
    "trtllm-build --checkpoint_dir ckpt --output_dir engine --gemm_plugin bfloat16 "
    "--max_batch_size 1 --max_input_len 4096 --max_seq_len 4096 --max_num_tokens 8192 "
    "--max_beam_width 1 "
)
COMMANDS = {
    Role.AUTOREGRESSIVE: "--use_paged_context_fmha enable",
    Role.DRAFT: "--use_paged_context_fmha enable",
    Role.TARGET: "--speculative_decoding_mode draft_tokens_external --max_draft_len 5 "
    "--use_paged_context_fmha enable",
    Role.MEDUSA: "--speculative_decoding_mode medusa",
    Role.EAGLE: "--speculative_decoding_mode eagle --use_paged_context_fmha enable",
    Role.LOOKAHEAD: "--speculative_decoding_mode lookahead_decoding --max_draft_len 83",
}


@pytest.mark.parametrize("role", Role)
def test_command_of_a_role(role: Role) -> None:
    limits = Limits(4096, max_draft_len=5, lookahead=Lookahead(7, 7, 7))
    words = build_command(role, "ckpt", "engine", Dtype.BF16, limits)
    assert " ".join(words) == COMMON + COMMANDS[role]


def test_sizes_and_types_are_passed_on() -> None:
    limits = Limits(100, max_batch_size=2, max_num_tokens=64)
    words = build_command(Role.DRAFT, "a", "b", Dtype.F16, limits)
    told = dict(zip(words[1::2], words[2::2], strict=True))
    assert told["--gemm_plugin"] == "float16"
    assert (told["--max_batch_size"], told["--max_num_tokens"]) == ("2", "64")
    assert (told["--max_input_len"], told["--max_seq_len"]) == ("100", "100")


# By hand: W - 1 branches of the window and G of the verification set, N - 1 tokens each.
@pytest.mark.parametrize(
    ("lookahead", "tokens"),
    [(Lookahead(4, 3, 4), 15), (Lookahead(7, 7, 7), 83), (Lookahead(1, 2, 1), 1)],
)
def test_draft_tokens_of_lookahead(lookahead: Lookahead, tokens: int) -> None:
    assert lookahead.draft_tokens == tokens


@pytest.mark.parametrize(("context", "drafts"), [(4096, 0), (4096, 64), (8, 8)])
def test_sizes_that_no_engine_has(context: int, drafts: int) -> None:
    with pytest.raises(BuildError, match=f"{drafts} draft tokens"):
        Limits(context, max_draft_len=drafts).check()
