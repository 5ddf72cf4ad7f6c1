"""specrt chat from a pipe: every line is a turn, and commands change what the next prompt is."""

import io
import json
import shutil
from pathlib import Path

import pytest
from specrt import LLM, SamplingParams
from specrt.cli.main import main
from specrt.cli.screen import Screen

GREEDY = SamplingParams(temperature=0, max_tokens=8)


@pytest.fixture(scope="module")
def llm(tiny_bundle: Path) -> LLM:
    return LLM(tiny_bundle, threads=1)


class Talk:
    """Runs `specrt chat` with lines on stdin."""

    def __init__(
        self, bundle: Path, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch
    ) -> None:
        self.bundle, self.capsys, self.patch = bundle, capsys, patch

    def __call__(self, text: str, *options: str, status: int = 0) -> tuple[str, str]:
        self.patch.setattr("sys.stdin", io.StringIO(text))
        words = ["chat", str(self.bundle), "--max-tokens", "8", "--threads", "1", *options]
        assert main(words) == status
        captured = self.capsys.readouterr()
        return captured.out, captured.err


@pytest.fixture
def talk(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Talk:
    return Talk(tiny_bundle, capsys, monkeypatch)


def answers(llm: LLM, *messages: str, system: str = "") -> str:
    """What a chat of these messages prints."""
    conversation = [{"role": "system", "content": system}] if system else []
    printed = ""
    for message in messages:
        conversation.append({"role": "user", "content": message})
        [out] = llm.chat(conversation, GREEDY)
        conversation.append({"role": "assistant", "content": out.text})
        printed += out.text + "\n"
    return printed


def test_every_line_is_a_turn_of_one_conversation(talk: Talk, llm: LLM) -> None:
    out, err = talk("One\n\nTwo\nThree")
    assert out == answers(llm, "One", "Two", "Three")
    assert err.count("tokens/s") == 3
    assert "of the draft accepted" in err
    assert answers(llm, "One", "Two").splitlines()[-1] != answers(llm, "Two").splitlines()[-1]


def test_no_stats_leaves_stderr_empty(talk: Talk) -> None:
    assert talk("One\n", "--no-stats")[1] == ""


def test_a_backslash_continues_a_line(talk: Talk, llm: LLM) -> None:
    assert talk("One\\\nTwo\nThree\\\n")[0] == answers(llm, "One\nTwo", "Three\\")


def test_two_slashes_write_one(talk: Talk, llm: LLM) -> None:
    assert talk("//help me\n")[0] == answers(llm, "/help me")


@pytest.mark.parametrize("method", ["autoregressive", "ngram", "ngram+speculative"])
def test_methods_answer_alike(method: str, talk: Talk, llm: LLM) -> None:
    assert talk("One\nTwo\n", "--method", method)[0] == answers(llm, "One", "Two")


def test_commands(talk: Talk, llm: LLM) -> None:
    one, two = answers(llm, "One"), answers(llm, "One", "Two")
    again = two.removeprefix(one)
    out, err = talk("One\nTwo\n/retry\n/undo\nTwo\n/reset\nOne\n/help\n/exit\nNever\n")
    assert out == two + again + again + one
    assert "[the last turn is dropped; 1 left]" in err
    assert "[all turns are dropped]" in err
    assert "/system TEXT" in err


def test_the_system_message(talk: Talk, llm: LLM) -> None:
    brief = answers(llm, "One", system="Be brief.")
    assert brief != answers(llm, "One")
    assert talk("One\n", "--system", "Be brief.")[0] == brief
    out, err = talk("/system Be brief.\nOne\n/undo\n/system\nOne\n")
    assert out == brief + answers(llm, "One")
    assert "[the system message is set]" in err
    assert "[the system message is removed]" in err


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("/frobnicate\n", "there is no command /frobnicate; /help lists them"),
        ("/retry\n", "there is no message to answer again"),
        ("/undo\n", "there is no turn to drop"),
        ("x" * 300, "the conversation would have 306 tokens, but the context of 256 leaves room"),
        ("x" * 300, "this message was not added. /reset drops all turns, /undo the last one"),
        ("\ud800\n", "it is not Unicode"),
    ],
)
def test_a_script_ends_at_the_first_error(text: str, error: str, talk: Talk) -> None:
    out, err = talk(text + "\nHello\n", status=2)
    assert out == ""
    assert err.startswith("specrt: error: ")
    assert err.count("\n") == 1
    assert error in err


def test_the_end_of_the_context_is_told(talk: Talk, llm: LLM) -> None:
    out, err = talk("x" * 240, "--no-stats", "--max-tokens", "99", "--min-tokens", "10")
    [expected] = llm.chat(
        [{"role": "user", "content": "x" * 240}],
        SamplingParams(temperature=0, max_tokens=10, min_tokens=10),
    )
    assert out == expected.text + "\n"
    assert err == "[the context of 256 tokens is full; /reset starts afresh]\n"


def test_a_bundle_without_a_chat_template_is_refused(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    file = bundle / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    del settings["chat_template"]
    file.write_text(json.dumps(settings))
    assert main(["chat", str(bundle)]) == 2
    assert f"specrt generate {bundle} --raw" in capsys.readouterr().err


def test_an_answer_cannot_steer_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "a\x1b[2Jb\tc\r\n\x9bd \N{SNOWMAN}\N{ZERO WIDTH JOINER}"
    screen = Screen()
    screen.write(text)
    assert capsys.readouterr().out == text
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    screen.write(text)
    shown = capsys.readouterr().out
    assert shown == "a\ufffd[2Jb\tc\ufffd\n\ufffdd \N{SNOWMAN}\N{ZERO WIDTH JOINER}"
