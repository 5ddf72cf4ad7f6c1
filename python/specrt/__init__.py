"""Lossless speculative decoding for large language models in a compiled runtime.

    import specrt

    llm = specrt.LLM("bundle")
    [out] = llm.generate("Write a haiku.", specrt.SamplingParams(temperature=0, max_tokens=64))
    print(out.text)

`specrt.build` compiles a Hugging Face checkpoint into a bundle.
"""

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from specrt._core import Error
from specrt.llm import LLM
from specrt.outputs import RequestMetrics, RequestOutput, SpeculativeMetrics, StreamChunk
from specrt.sampling_params import SamplingParams

if TYPE_CHECKING:
    from specrt import build

__version__ = version("specrt")

__all__ = [
    "LLM",
    "Error",
    "RequestMetrics",
    "RequestOutput",
    "SamplingParams",
    "SpeculativeMetrics",
    "StreamChunk",
    "build",
]


def __getattr__(name: str) -> Any:
    """`specrt.build`, a package that can be called, is imported when it is first used."""
    if name == "build":
        return importlib.import_module("specrt.build")
    raise AttributeError(f"module 'specrt' has no attribute {name!r}")
