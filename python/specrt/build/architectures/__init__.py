"""One file per architecture: what a step computes, as a graph."""

from collections.abc import Callable

from specrt.build.architectures import (
    eagle,
    eagle3,
    llama,
    medusa,
    mistral,
    parallel_medusa,
    qwen2,
    qwen3,
)
from specrt.build.config import Eagle, Eagle1, Medusa, ModelConfig, ParallelMedusa
from specrt.build.graph import DType, Graph

GRAPHS: dict[str, Callable[[ModelConfig, DType], Graph]] = {
    "llama": llama.graph,
    "mistral": mistral.graph,
    "qwen2": qwen2.graph,
    "qwen3": qwen3.graph,
}


def graph_of(config: ModelConfig, dtype: DType) -> Graph:
    """Graph of a model's step, unfused; weights, caches and the inputs of matmuls in `dtype`."""
    match config.features:
        case None:
            return GRAPHS[config.architecture](config, dtype)
        case Eagle():
            return eagle3.graph(config, config.features, dtype)
        case Eagle1():
            return eagle.graph(config, config.features, dtype)
        case ParallelMedusa():
            return parallel_medusa.graph(config, dtype)
        case Medusa():
            return medusa.graph(config, config.features, dtype)
