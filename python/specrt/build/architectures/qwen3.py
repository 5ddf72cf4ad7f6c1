"""Qwen3: Llama with a norm over every head of queries and keys, and windows of some layers.

Yang et al. 2025 (arXiv 2505.09388), section 2; the computation of Qwen3ForCausalLM.
"""

from specrt.build.architectures.blocks import Traits
from specrt.build.architectures.decoder import decoder
from specrt.build.config import ModelConfig
from specrt.build.graph import DType, Graph


def graph(config: ModelConfig, dtype: DType) -> Graph:
    """Graph of a step, unfused; weights, caches and the inputs of matmuls in `dtype`."""
    return decoder(config, dtype, Traits(head_norm=True))
