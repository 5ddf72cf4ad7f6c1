"""One file per architecture: what a step computes, as a graph."""

from collections.abc import Callable

from specrt.build.architectures import llama
from specrt.build.config import ModelConfig
from specrt.build.graph import DType, Graph

GRAPHS: dict[str, Callable[[ModelConfig, DType], Graph]] = {"llama": llama.graph}
