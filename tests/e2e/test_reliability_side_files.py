"""Side files of a bundle that somebody made to do harm: one line of error, never a traceback."""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import specrt
from specrt import LLM, SamplingParams
from specrt.cli.main import main
from specrt.eval.machine import place_of

pytestmark = pytest.mark.cpu_only("files are read by the host side, alike for every backend")

STRANGE: list[Any] = [
    None,
    True,
    -1,
    0,
    1.5,
    10**30,
    10**280,
    1e308,
    "",
    "x",
    "\ud800",
    "\0\x1b[2J\n",
    "../../../etc/passwd",
    [],
    [1, [2]],
    {},
    {"a": {"b": 1}},
]
DEEP = ["[" * 100_000, '{"a":' * 900 + "1" + "}" * 900, '{"a": ' + "[" * 70 + "]" * 70 + "}"]
TEXTS = [
    "",
    "null",
    "[]",
    "5",
    '"x"',
    "{",
    '{"a": NaN}',
    '{"a": 1e999}',
    '{"a": 1, "a": 2}',
    '{"a": ' + "9" * 5000 + "}",
    '{"a": ' + "9" * 400 + "}",
    *DEEP,
]
BYTES = [text.encode() for text in TEXTS] + [b"\xff\xfe\x00", b'{"a": "\xff"}', b"\0" * 100]
FILES = ("manifest.json", "tokenizer.json", "tokenizer_config.json")


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def one_line(error: BaseException) -> str:
    text = str(error)
    assert text
    assert "\n" not in text
    return text


def use(bundle: Path) -> str:
    """Everything that reads side files, from Python; the error, or "" if all went well."""
    try:
        llm = LLM(bundle, threads=1)
        text = "Hello"
        if llm.tokenizer.has_chat_template:
            text = llm.tokenizer.apply_chat_template([{"role": "user", "content": text}])
        llm.generate(text, SamplingParams(max_tokens=2))
        list(llm.stream(text, SamplingParams(max_tokens=2)))
    except (specrt.Error, ValueError) as error:
        return one_line(error)
    return ""


def run_commands(bundle: Path, capfd: pytest.CaptureFixture[str], statuses: set[int]) -> None:
    """Runs the commands that read a bundle; each ends with one of `statuses` and one line."""
    commands = (
        ["generate", str(bundle), "Hello", "--max-tokens", "2", "--quiet"],
        ["inspect", str(bundle)],
        ["inspect", str(bundle), "--predict", "--threads", "1"],
        ["inspect", str(bundle), "--json", "--verify", "--predict", "--threads", "1"],
    )
    for words in commands:
        capfd.readouterr()
        status = main(words)
        captured = capfd.readouterr()
        assert status in statuses, (words, captured.err)
        if status:
            lines = [line for line in captured.err.splitlines() if "specrt: error: " in line]
            assert len(lines) == 1
            assert "Traceback" not in captured.err


@pytest.mark.parametrize("name", FILES)
def test_content_that_is_no_json_object(
    name: str, bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for content in BYTES:
        (bundle / name).write_bytes(content)
        error = use(bundle)
        assert name in error, content[:40]
        assert main(["generate", str(bundle), "Hello", "--quiet"]) == 1
        assert capfd.readouterr().err.startswith("specrt: error: ")
    run_commands(bundle, capfd, {0, 1})


def pipe(path: Path) -> None:
    os.mkfifo(path)


def link_to_a_text(path: Path) -> None:
    text = path.with_suffix(".txt")
    text.write_text("secret words")
    path.symlink_to(text)


def link_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


PLACES: dict[str, Callable[[Path], None]] = {
    "folder": lambda path: path.mkdir(),
    "pipe": pipe,
    "endless device": link_to("/dev/zero"),
    "link to nothing": link_to("nothing"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to a text": link_to_a_text,
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", [*FILES, "target.engine", "drafters/draft.engine"])
def test_places_that_are_no_regular_file(
    name: str, place: str, bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (bundle / name).unlink()
    PLACES[place](bundle / name)
    assert name in use(bundle)
    assert main(["generate", str(bundle), "Hello", "--quiet"]) == 1
    error = capfd.readouterr().err
    assert error.startswith("specrt: error: ")
    assert error.count("\n") == 1
    assert "secret" not in error


def test_links_to_regular_files_are_followed(bundle: Path, tmp_path: Path) -> None:
    """The Hugging Face cache is made of links."""
    for name in FILES:
        (bundle / name).rename(tmp_path / name)
        (bundle / name).symlink_to(tmp_path / name)
    assert use(bundle) == ""


def places_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to everything inside of a JSON value, lists and long objects cut short."""
    items = list(value.items() if isinstance(value, dict) else enumerate(value))
    for key, child in items[:24]:
        yield (*path, key)
        if isinstance(child, dict | list):
            yield from places_of(child, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    copy = json.loads(json.dumps(value))
    node = copy
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = new
    return copy


def test_a_manifest_with_strange_values(bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = bundle / "manifest.json"
    good = json.loads(path.read_text())
    good["curves"] = {
        **asdict(place_of(LLM(bundle, "autoregressive").core.backend, 1)),
        "step_ms": {"target": {"1": 1.0, "8": 1.5}, "draft": {"1": 0.2, "8": 0.3}},
        "tokens_per_second": {"autoregressive": 900.0, "speculative": 1500.0},
        "acceptance": {"reached_at_position": [9, 5], "accepted_at_position": [5, 3]},
    }
    for number, (place, new) in enumerate(product(places_of(good), STRANGE)):
        path.write_text(json.dumps(replaced(good, place, new)))
        use(bundle)
        if number % 7 == 0:
            run_commands(bundle, capfd, {0, 1})
    for rows in ("0", "-1", "x", "9" * 250, "9" * 5000, "1e3"):
        path.write_text(json.dumps(replaced(good, ("curves", "step_ms", "target", rows), 2.0)))
        run_commands(bundle, capfd, {0, 1})


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_tokenizer_with_strange_values(
    name: str, bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = bundle / name
    good = json.loads(path.read_text())
    for number, (place, new) in enumerate(product(places_of(good), STRANGE)):
        path.write_text(json.dumps(replaced(good, place, new)))
        use(bundle)
        if number % 40 == 0:
            run_commands(bundle, capfd, {0, 1})


TEMPLATES = [
    "{{ 1 / 0 }}",
    "{{ 'x' * 10**12 }}",
    "{{ messages[5].content.x.y }}",
    "{% for i in range(10**9) %}x{% endfor %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ " + "(" * 2000 + "1" + ")" * 2000 + " }}",
    "{% if 1 %}" * 300 + "{% endif %}" * 300,
    "{{ '\ud800' }}",
    "{{ messages | map('x') | list }}",
    "{{ raise_exception(messages) }}",
    "{{ undefined_thing() }}",
    "{% include '/etc/passwd' %}",
    "{{ unclosed",
]


@pytest.mark.parametrize("template", TEMPLATES, ids=range(len(TEMPLATES)))
def test_chat_templates_that_fail(
    template: str, bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (bundle / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    assert use(bundle)
    assert main(["generate", str(bundle), "Hello", "--quiet"]) == 2  # as for raise_exception
    assert capfd.readouterr().err.count("\n") == 1


def test_tokenizers_with_random_damage(bundle: Path) -> None:
    path = bundle / "tokenizer.json"
    good = path.read_bytes()
    draw = random.Random(1)
    for _ in range(300):
        data = bytearray(good)
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        path.write_bytes(data[: draw.randrange(len(data))] if draw.random() < 0.1 else data)
        use(bundle)


def test_ids_beyond_the_vocabulary_are_refused(bundle: Path) -> None:
    path = bundle / "tokenizer.json"
    good = json.loads(path.read_text())
    for number in (277, 2**31, 2**32 - 1):
        good["model"]["vocab"]["H"] = number
        path.write_text(json.dumps(good))
        assert f"token {number} is outside of the vocabulary" in use(bundle)
