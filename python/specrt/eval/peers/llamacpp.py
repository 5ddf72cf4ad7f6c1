"""llama.cpp: llama-bench for step times, llama-completion and llama-speculative-simple for text.

One process per prompt; the times are the program's own, so loading the model is left out.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from specrt.eval.peers.gguf_export import export_gguf
from specrt.eval.peers.llamacpp_build import LlamaCpp, cpu_flags
from specrt.eval.peers.prompts import Text
from specrt.eval.peers.records import (
    Generation,
    NotMeasured,
    Peer,
    PeerError,
    Prompt,
    Settings,
    StepTime,
    Variant,
)

_T = TypeVar("_T")
_PLAIN = "plain bf16"
_ATTEMPTS = 6
# Greedy by the cheapest sampler chain that it has; prompts are taken byte for byte.
_GREEDY = ("--temp", "0", "--samplers", "top_k", "--top-k", "1", "--no-escape")


@dataclass(frozen=True)
class _Setup:
    """A built llama.cpp with the exported models. `checked`: prompts whose ids were compared."""

    programs: LlamaCpp
    folder: Path
    target: Path
    draft: Path | None
    text: Text
    settings: Settings
    checked: set[str] = field(default_factory=set)

    def threads(self, *names: str) -> list[str]:
        return [part for name in names for part in (name, str(self.settings.threads))]


def measure_llamacpp(
    programs: LlamaCpp,
    model: Path,
    draft: Path | None,
    text: Text,
    settings: Settings,
    folder: Path,
) -> Peer:
    """Export the models to `folder` and return variants, step times and facts about the build.

    Raises ValueError when a model cannot be exported, PeerError when a program fails.
    """
    target = _export(model, folder / "target.gguf")
    drafter = _export(draft, folder / "draft.gguf") if draft else None
    setup = _Setup(programs, folder, target, drafter, text, settings)
    facts = _again(partial(_facts, setup))
    variants = [Variant("llama.cpp", _PLAIN, _PLAIN, _repeated(partial(_plain, setup)))]
    missing: list[NotMeasured] = []
    if drafter is None:
        missing.append(NotMeasured("llama.cpp", "speculative", "no --draft given"))
    else:
        for length in settings.draft_lengths:
            run = _repeated(partial(_speculative, setup, length))
            variants.append(Variant("llama.cpp", f"speculative {length} bf16", _PLAIN, run))
    return Peer(variants, _steps(setup), missing, facts)


class _LostOutputError(PeerError):
    """The program ended before its logging thread had written what it said."""


def _again(call: Callable[[], _T]) -> _T:
    """Calls until nothing of the output is lost; gives up after a few times."""
    for _ in range(_ATTEMPTS - 1):
        with suppress(_LostOutputError):
            return call()
    return call()


def _repeated(generate: Callable[[Prompt], Generation]) -> Callable[[Prompt], Generation]:
    return lambda prompt: _again(partial(generate, prompt))


def _export(folder: Path, out: Path) -> Path:
    export_gguf(folder, out)
    return out


def _run(setup: _Setup, program: str, *arguments: str) -> tuple[str, str]:
    """Standard output and error of one of the programs."""
    command = [str(setup.programs.bin / program), *arguments]
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL)
    out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    if done.returncode != 0:
        tail = " | ".join(err.strip().splitlines()[-3:])
        raise PeerError(f"{program} failed ({done.returncode}): {tail}")
    return out, err


def _facts(setup: _Setup) -> dict[str, str]:
    """Version, compiler, threads and ISA flags, in llama.cpp's own words."""
    out, err = _run(setup, "llama-completion", "--version")
    lines = [line for line in (out + err).splitlines() if line.startswith(("version", "built"))]
    arguments = ["-m", str(setup.target), "-no-cnv", "-p", "a", "-n", "1", *_GREEDY]
    _, log = _run(setup, "llama-completion", *arguments, *setup.threads("-t", "-tb"))
    info = re.search(r"system_info: (.*)", log)
    if info is None:
        raise _LostOutputError("llama-completion printed no system_info")
    facts = {
        "source": setup.programs.source,
        "version": ", ".join(lines).removeprefix("version: "),
        "system_info": info[1].strip(" |"),
    }
    if "avx512_bf16" in cpu_flags() and "AVX512_BF16 = 1" not in info[1]:
        facts["warning"] = "the CPU has AVX512_BF16, this build does not use it"
    return facts


def _steps(setup: _Setup) -> list[StepTime]:
    """llama-bench: `tg` for one row, `pp N` for N rows in one forward, medians of its samples."""
    settings = setup.settings
    if not settings.step_rows:
        return []
    wide = [rows for rows in settings.step_rows if rows > 1]
    arguments = ["-m", str(setup.target), "-o", "json", "-d", str(settings.step_depth)]
    arguments += ["-r", str(settings.step_repeats), *setup.threads("-t")]
    arguments += ["-p", ",".join(map(str, wide)) or "0"]
    arguments += ["-n", str(settings.step_tokens) if 1 in settings.step_rows else "0"]
    out, _ = _run(setup, "llama-bench", *arguments)
    results: Sequence[dict[str, Any]] = json.loads(out)
    steps = []
    for result in results:
        rows, forwards = (result["n_prompt"], 1) if result["n_prompt"] else (1, result["n_gen"])
        ms = median(result["samples_ns"]) / 1e6 / forwards
        steps.append(StepTime("llama.cpp", "bf16", rows, settings.step_depth, ms))
    return steps


def _plain(setup: _Setup, prompt: Prompt) -> Generation:
    """llama-completion. Its sampling time counts as decoding; printing the text does not."""
    with _prompt_file(setup, prompt) as file:
        out, log = _run(
            setup,
            "llama-completion",
            *("-m", str(setup.target), "-bf", file, *_GREEDY),
            *("-no-cnv", "--no-display-prompt", "--verbose-prompt", "--perf", "--simple-io"),
            *("-n", str(setup.settings.max_new_tokens)),
            *setup.threads("-t", "-tb"),
        )
    _check_prompt(setup, prompt, log)
    prefill_ms = _number(log, r"prompt eval time = +([\d.]+) ms")
    eval_ms = _number(log, r"  eval time = +([\d.]+) ms")
    sampling_ms = _number(log, r"sampling time = +([\d.]+) ms")
    runs = int(_number(log, r"  eval time = +[\d.]+ ms / +(\d+) runs"))
    if eval_ms == 0.0:  # llama.cpp reports one run when there was none
        runs = 0
    return Generation(
        text=out.rstrip("\n").removesuffix(" [end of text]"),
        tokens=runs + 1,
        prefill_s=prefill_ms / 1e3,
        decode_s=(eval_ms + sampling_ms) / 1e3,
        decode_tokens=runs,
        rounds=runs or None,
    )


def _speculative(setup: _Setup, length: int, prompt: Prompt) -> Generation:
    """llama-speculative-simple with a constant draft length.

    It prints no token ids, and counts those behind an end token inside an accepted run: what it
    generated is counted by encoding its text again. Its last round may run past the limit; those
    tokens count, being made in the time measured, but their text is cut off.
    """
    with _prompt_file(setup, prompt) as file:
        out, log = _run(
            setup,
            "llama-speculative-simple",
            *("-m", str(setup.target), "-md", str(setup.draft), "-bf", file, *_GREEDY),
            *("--spec-type", "draft-simple", "--spec-draft-n-max", str(length)),
            *("-n", str(setup.settings.max_new_tokens - 1)),  # it stops one behind its limit
            *setup.threads("-t", "-tb", "-td", "-tbd"),
        )
    head, text = "\n\n" + prompt.text, out.removesuffix("\n\n\n\n")
    if not text.startswith(head) or int(_number(log, r"encoded +(\d+) tokens")) != len(
        prompt.token_ids
    ):
        raise PeerError(f"llama-speculative-simple read prompt {prompt.name} differently")
    text = text[len(head) :]
    counted = int(_number(log, r"n_predict = (\d+)"))
    accepted = int(_number(log, r"n_accept  = (\d+)"))
    ids = setup.text.encode(text)
    tokens = min(counted, len(ids) + 1)  # the text lacks the end token, if there was one
    return Generation(
        text=setup.text.decode(ids[: setup.settings.max_new_tokens]),
        tokens=tokens,
        prefill_s=_number(log, r"encoded .* in +([\d.]+) seconds"),
        decode_s=_number(log, r"decoded .* in +([\d.]+) seconds"),
        decode_tokens=tokens,
        rounds=counted - accepted,
        drafted=int(_number(log, r"n_drafted = (\d+)")),
        accepted=accepted,
    )


@contextmanager
def _prompt_file(setup: _Setup, prompt: Prompt) -> Iterator[str]:
    with tempfile.NamedTemporaryFile(dir=setup.folder, suffix=".prompt") as file:
        file.write(prompt.text.encode())
        file.flush()
        yield file.name


def _check_prompt(setup: _Setup, prompt: Prompt, log: str) -> None:
    """Raises PeerError unless llama.cpp's tokenizer gave the ids that the other peers are fed."""
    if prompt.name in setup.checked:
        return
    ids = tuple(int(found) for found in re.findall(r"^[\d.]+ I +(\d+) -> '", log, re.MULTILINE))
    if len(ids) < len(prompt.token_ids):
        raise _LostOutputError(f"llama.cpp printed {len(ids)} tokens of prompt {prompt.name}")
    if ids != prompt.token_ids:
        raise PeerError(f"llama.cpp tokenizes prompt {prompt.name} differently")
    setup.checked.add(prompt.name)


def _number(log: str, pattern: str) -> float:
    found = re.search(pattern, log)
    if found is None:
        raise _LostOutputError(f"llama.cpp printed nothing like {pattern!r}")
    return float(found[1])
