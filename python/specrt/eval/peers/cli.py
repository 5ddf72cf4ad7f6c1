"""Command line of `tools/bench_peers.py`: sets up the peers, runs them, prints one table."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from specrt.eval.output_files import check_output_files
from specrt.eval.peers.prompts import Text, load_prompts
from specrt.eval.peers.records import (
    NotMeasured,
    Peer,
    PeerError,
    Settings,
    StepTime,
    Variant,
)
from specrt.eval.peers.report import format_report, machine, make_rows, run_variants, to_json

PEERS = ("llama.cpp", "hf", "specrt")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 0 unless nothing at all could be measured."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        check_output_files({"--json": [options.json] if options.json else []}, options.prompts)
    except ValueError as error:
        parser.error(str(error))
    if options.threads > (os.cpu_count() or options.threads):
        print(f"warning: {options.threads} threads, {os.cpu_count()} cores", file=sys.stderr)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    settings = Settings(
        threads=options.threads,
        max_new_tokens=options.max_new_tokens,
        draft_lengths=options.draft_max,
        step_rows=options.steps,
        step_depth=options.step_depth,
        step_tokens=options.step_tokens,
        step_repeats=options.step_repeats,
    )
    text = Text(options.model)
    prompts = load_prompts(text, options.prompts, options.limit)
    variants: list[Variant] = []
    steps: list[StepTime] = []
    missing: list[NotMeasured] = []
    facts: dict[str, dict[str, str]] = {"machine": machine()}
    with tempfile.TemporaryDirectory(prefix="specrt-peers-") as scratch:
        for name in options.peers:
            try:
                peer = _setup(name, options, text, settings, Path(scratch))
            except Exception as error:
                reason = str(error) if isinstance(error, PeerError) else repr(error)
                missing.append(NotMeasured(name, "", reason))
                continue
            facts[name] = peer.facts
            variants += peer.variants
            steps += peer.steps
            missing += peer.missing
        runs, failed = run_variants(variants if prompts else [], prompts, options.repeats)
    rows = make_rows(variants, runs, _reference(variants))
    missing += failed
    print(format_report(rows, steps, missing, facts))
    if options.json:
        shown = {name: _plain(value) for name, value in vars(options).items()}
        result = to_json(rows, steps, missing, facts, shown)
        options.json.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    return 0 if rows or steps else 1


def _setup(
    name: str,
    options: argparse.Namespace,
    text: Text,
    settings: Settings,
    scratch: Path,
) -> Peer:
    # Imported here: a peer whose packages are missing must not stop the others.
    if name == "llama.cpp":
        from specrt.eval.peers.llamacpp import measure_llamacpp
        from specrt.eval.peers.llamacpp_build import build_llamacpp

        print("llama.cpp: build", file=sys.stderr)
        programs = build_llamacpp(options.peer_cache, options.llamacpp_sdist, options.jobs)
        return measure_llamacpp(programs, options.model, options.draft, text, settings, scratch)
    if name == "hf":
        from specrt.eval.peers.hf import measure_hf

        return measure_hf(options.model, options.draft, text, settings, options.hf_dtypes)
    from specrt.eval.peers.own import measure_own

    if options.bundle is None:
        raise PeerError("no --bundle given")
    return measure_own(options.bundle, text, settings, options.methods)


def _reference(variants: Sequence[Variant]) -> str | None:
    """The variant whose text the others are held against: the most exact plain one there is."""
    names = [variant.name for variant in variants if variant.label == variant.baseline]
    return "hf plain f32" if "hf plain f32" in names else next(iter(names), None)


def _plain(value: object) -> object:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.name if isinstance(value, Path) else value


def _words(kind: Callable[[str], object]) -> Callable[[str], tuple[object, ...]]:
    def parse(text: str) -> tuple[object, ...]:
        return tuple(kind(word) for word in text.split(",") if word)

    return parse


def _choice(text: str) -> str:
    if text not in PEERS:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(PEERS)}")
    return text


def _default_cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "specrt" / "peers"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench_peers.py",
        description="specrt, llama.cpp and transformers on the same weights, prompts and threads.",
    )
    add = parser.add_argument
    add("--model", type=Path, required=True, help="Hugging Face folder of the target (Llama)")
    add("--draft", type=Path, help="Hugging Face folder of the draft model")
    add("--bundle", type=Path, help="specrt bundle built from the same folders")
    add("--prompts", type=Path, nargs="*", default=[], help="jsonl or jsonl.gz; none: steps only")
    add("--limit", type=int, default=20, help="prompts of each file")
    add("--max-new-tokens", type=int, default=128)
    add("--threads", type=int, required=True)
    add("--peers", type=_words(_choice), default=PEERS, help="of " + ",".join(PEERS))
    add("--repeats", type=int, default=3, help="turns over all variants; medians are shown")
    add(
        "--draft-max",
        type=_words(int),
        default=(3, 5, 8),
        help="draft lengths of llama.cpp and transformers, e.g. 3,5,8",
    )
    add(
        "--methods",
        type=_words(str),
        default=("speculative", "ngram"),
        help="specrt methods beside autoregressive (default: speculative,ngram)",
    )
    add("--hf-dtypes", type=_words(str), default=("f32", "bf16"), help="of f32,bf16")
    add("--steps", type=_words(int), default=(1, 8, 16), help="rows of timed forwards, '' for none")
    add("--step-depth", type=int, default=128, help="cached tokens before a timed forward")
    add("--step-tokens", type=int, default=64, help="one-row forwards in a run")
    add("--step-repeats", type=int, default=10)
    add("--peer-cache", type=Path, default=_default_cache(), help="where llama.cpp is built")
    add("--llamacpp-sdist", type=Path, help="llama_cpp_python-*.tar.gz instead of pip download")
    add("--jobs", type=int, default=2, help="parallel compile jobs")
    add("--json", type=Path, help="also write everything here")
    return parser
