"""A bundle on disk: a target engine, its drafters, tokenizer and manifest."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from specrt._core import Error
from specrt.json_file import read_json

MANIFEST = "manifest.json"
_MAX_MANIFEST_BYTES = 16 << 20


@dataclass(frozen=True)
class Bundle:
    """The folder `path`; `open_bundle` checks it."""

    path: Path
    manifest: dict[str, Any]

    @property
    def target_engine(self) -> Path:
        """The target's engine file."""
        return self.path / "target.engine"

    @cached_property
    def drafters(self) -> dict[str, Path]:
        """Engine files of the drafters by name."""
        return {file.stem: file for file in sorted((self.path / "drafters").glob("*.engine"))}

    @property
    def heads(self) -> dict[str, int]:
        """Tokens that drafters made of heads can draft, by name; others have no such limit."""
        entries = self.manifest.get("drafters")
        named = entries if isinstance(entries, list) else []
        return {
            str(entry.get("name")): entry["heads"]
            for entry in named
            if isinstance(entry, dict) and type(entry.get("heads")) is int
        }

    @property
    def streams(self) -> int:
        """Streams of a row with which the target can draft for itself; 0: none."""
        target = self.manifest.get("target")
        streaming = target.get("streaming") if isinstance(target, dict) else None
        streams = streaming.get("streams") if isinstance(streaming, dict) else 0
        return streams if type(streams) is int else 0

    @property
    def has_draft(self) -> bool:
        """Whether a draft model is there."""
        return "draft" in self.drafters

    @property
    def curves(self) -> dict[str, Any] | None:
        """Step times measured on some machine, or None before `specrt tune`."""
        curves = self.manifest.get("curves")
        return curves if isinstance(curves, dict) else None


def open_bundle(path: str | Path) -> Bundle:
    """Opens the bundle folder `path`.

    Raises:
        Error: it is not a bundle, or its manifest cannot be read.
    """
    folder = Path(path)
    manifest = folder / MANIFEST
    if not os.path.lexists(manifest):
        raise Error(
            f"{folder} is not a specrt bundle (it has no {MANIFEST}); "
            f"build one with: specrt build MODEL -o {folder}"
        )
    bundle = Bundle(folder, read_json(manifest, _MAX_MANIFEST_BYTES, Error))
    if bundle.manifest.get("format") == "specrt-tensorrt-llm":
        raise Error(
            f"{folder} holds engines of TensorRT-LLM, which specrt.trtllm.generator runs under the "
            "Python of TensorRT-LLM; build a bundle for specrt's own runtime with --backend cpu"
        )
    if not bundle.target_engine.is_file():
        raise Error(f"{bundle.target_engine} is missing; build the bundle again")
    return bundle
