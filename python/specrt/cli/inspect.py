"""specrt inspect: what is in a bundle, and what its step times predict."""

import argparse
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from specrt._core import inspect_engine
from specrt.build.engine_file import EngineHeader, read_header
from specrt.bundle import Bundle
from specrt.cli.options import add_bundle, add_threads, named_bundle
from specrt.cli.plan_text import op_texts, plan_lines
from specrt.cli.prediction_text import prediction_facts, prediction_lines
from specrt.curves import fastest_method
from specrt.eval.acceptance import iid
from specrt.eval.cost_model import best_speculative
from specrt.eval.machine import cpu_model
from specrt.eval.step_costs import step_costs, step_curves
from specrt.eval.table import text_table
from specrt.printable import printable

HELP = "show what is in a bundle"
_DESCRIPTION = """\
Shows the engines of a bundle (plan, sizes, hashes), the step times measured on a machine, and the
draft length that they favour. Files are validated as loading does; --verify hashes the weights
too. --predict adds what every decoding loop should reach with these step times and the measured
acceptance, beside what it did reach."""
_EPILOG = """examples:
  %(prog)s demo --verify
  %(prog)s demo --predict
"""
_ACCEPTANCES = (0.5, 0.6, 0.7, 0.8, 0.9)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    add_bundle(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--verify", action="store_true", help="hash the engines again")
    parser.add_argument("--predict", action="store_true", help="predict the speed of every loop")
    add_threads(parser)
    parser.add_argument(
        "--bandwidth",
        type=_bandwidth,
        metavar="GB/S",
        help="what reading memory reaches here; --predict then adds up the bytes that both models "
        "read on a shared bus (default: their step times)",
    )


def _bandwidth(text: str) -> float:
    """Bytes per second."""
    value = 1e9 * float(text)
    if not 0.0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be positive, not {text}")
    return value


def run(args: argparse.Namespace) -> int:
    """Prints the facts."""
    bundle = named_bundle(args.bundle)
    if args.verify:
        from specrt.build.bundle import verify

        verify(bundle.path)
    engines = [_engine("target", bundle.target_engine, bundle.manifest.get("target"))]
    entries = bundle.manifest.get("drafters")
    entries = entries if isinstance(entries, list) else []
    for name, path in bundle.drafters.items():
        entry = next((e for e in entries if isinstance(e, dict) and e.get("name") == name), None)
        engines.append(_engine(name, path, entry))
    ahead = (args.threads, args.bandwidth)
    if args.json:
        facts = _json_facts(bundle, engines, verified=args.verify)
        if args.predict:
            facts["prediction"] = prediction_facts(bundle, *ahead)
        print(json.dumps(facts, indent=2))
        return 0
    lines = _head_lines(bundle, verified=args.verify)
    for engine in engines:
        lines += ["", *engine.lines()]
    lines += ["", *curve_lines(bundle)]
    if args.predict:
        lines += ["", *prediction_lines(bundle, *ahead)]
    print("\n".join(lines))
    return 0


@dataclass(frozen=True)
class _Engine:
    """An engine file. `sizes` are those of the runtime, `sha256` is what the builder noted."""

    name: str
    path: Path
    header: EngineHeader
    sizes: Mapping[str, int]
    sha256: str

    @property
    def weights(self) -> int:
        """Elements of all tensors, padding between fused parts included."""
        return sum(tensor.rows * tensor.cols for tensor in self.header.plan.tensors)

    def lines(self) -> list[str]:
        """The engine in words."""
        plan, sizes = self.header.plan, self.sizes
        architecture = printable(self.header.meta.get("architecture", "model"))
        return [
            f"{self.name}: {architecture}, {self.weights / 1e6:.1f} M weights, {plan.dtype.value}, "
            f"{plan.backend}",
            f"  file        {self.path} ({_megabytes(sizes['file_bytes'])})",
            f"  sha256      {self.sha256}",
            f"  vocabulary  {plan.vocab}, ends at {', '.join(map(str, plan.eos)) or 'nothing'}",
            f"  context     {plan.context} positions, {len(plan.caches)} layers",
            f"  step reads  {_megabytes(sizes['step_weight_bytes'])} of weights",
            f"  memory      KV cache {_megabytes(sizes['kv_bytes'])}, activations "
            f"{_megabytes(sizes['activation_bytes'])}",
            f"  plan        {len(plan.ops)} ops",
            *(f"    {line}" for line in plan_lines(op_texts(self.header))),
        ]

    def facts(self) -> dict[str, Any]:
        """The engine as JSON."""
        plan = self.header.plan
        return {
            "file": str(self.path),
            "sha256": self.sha256,
            "backend": plan.backend,
            "dtype": plan.dtype.value,
            "vocab": plan.vocab,
            "context": plan.context,
            "eos": list(plan.eos),
            "layers": len(plan.caches),
            "weights": self.weights,
            **self.sizes,
            "plan": [asdict(op) for op in op_texts(self.header)],
            "meta": self.header.meta,
        }


def _engine(name: str, path: Path, entry: object) -> _Engine:
    sizes = inspect_engine(str(path))
    sha256 = entry.get("sha256", "unknown") if isinstance(entry, dict) else "unknown"
    return _Engine(printable(name), path, read_header(path), dict(sizes), printable(sha256))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _head_lines(bundle: Bundle, *, verified: bool) -> list[str]:
    manifest = bundle.manifest
    lines = [
        f"bundle      {bundle.path}",
        f"built by    specrt {printable(manifest.get('specrt_version', 'unknown'))}",
        f"command     {printable(manifest.get('command', 'unknown'))}",
    ]
    return [*lines, "verified    every engine has the hash of its build"] if verified else lines


def curve_lines(bundle: Bundle) -> list[str]:
    """Step times and the draft lengths that follow, in words."""
    curves = bundle.curves
    if curves is None:
        return ["step times  not measured; do it with: specrt tune BUNDLE"]
    costs = step_costs(curves)
    is_cuda = bundle.manifest.get("backend") == "cuda"  # which GPU is here, nobody looks
    where = [printable(curves.get("machine")), printable(curves.get("isa"))]
    if not is_cuda:
        where.insert(1, f"{printable(curves.get('threads'))} threads")
    lines = [f"step times  {', '.join(where)}; milliseconds by rows"]
    if not is_cuda and curves.get("machine") != cpu_model():
        lines.append("            NOT this machine; measure again with: specrt tune BUNDLE")
    by_role = {role: dict(curve.points) for role, curve in step_curves(curves).items()}
    rows = by_role["target"]
    table = [["rows", *map(str, rows)]]
    for role, ms in by_role.items():
        table.append([role, *(f"{ms[n]:.3g}" if n in ms else "-" for n in rows)])
    lines += [f"  {line}" for line in text_table(table, texts=1).splitlines()]
    lines += _method_lines(curves)
    if costs is None:
        return lines
    best = [best_speculative(costs, iid(a)) for a in _ACCEPTANCES]
    table = [
        ["acceptance of a drafted token", *(f"{a:.1f}" for a in _ACCEPTANCES)],
        ["best draft length", *(str(b.draft_length) for b in best)],
        ["tokens a round", *(f"{b.tokens_per_round:.2f}" for b in best)],
        ["predicted speed-up", *(f"{b.speedup:.2f}x" for b in best)],
    ]
    lines += ["", "draft length predicted from the step times"]
    lines += [f"  {line}" for line in text_table(table, texts=1).splitlines()]
    return [*lines, "  By default every round drafts as many as its last drafts make worth while."]


def _method_lines(curves: Mapping[str, Any]) -> list[str]:
    """Decoding rates by method, and which of them "auto" takes."""
    rates = curves.get("tokens_per_second")
    if not isinstance(rates, Mapping) or not rates:
        return []
    table = [["method", "tokens/s"]]
    table += [[printable(name), printable(rate)] for name, rate in rates.items()]
    return [
        "",
        "decoding rate, greedy, over a few short prompts",
        *(f"  {line}" for line in text_table(table, texts=1).splitlines()),
        f'  "auto" takes {printable(fastest_method(curves))}.',
    ]


def _json_facts(bundle: Bundle, engines: list[_Engine], *, verified: bool) -> dict[str, Any]:
    costs = step_costs(bundle.curves) if bundle.curves is not None else None
    predictions = [
        {"acceptance": a, **asdict(best_speculative(costs, iid(a)))} for a in _ACCEPTANCES if costs
    ]
    return {
        "bundle": str(bundle.path),
        "specrt_version": bundle.manifest.get("specrt_version"),
        "command": bundle.manifest.get("command"),
        "verified": verified,
        "engines": {engine.name: engine.facts() for engine in engines},
        "machine": {"cpu_model": cpu_model(), "cores": len(os.sched_getaffinity(0))},
        "curves": bundle.curves,
        "draft_length": predictions,
    }
