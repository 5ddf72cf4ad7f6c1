"""Qwen2 and Qwen2.5: Llama with biases on queries, keys and values, and windows of some layers.

Yang et al. 2024 (arXiv 2407.10671), section 2.2; the computation of Qwen2ForCausalLM.
"""

from specrt.build.architectures.blocks import Traits
from specrt.build.architectures.decoder import decoder
from specrt.build.config import ModelConfig
from specrt.build.graph import DType, Graph


def graph(config: ModelConfig, dtype: DType) -> Graph:
    """Graph of a step, unfused; weights, caches and the inputs of matmuls in `dtype`."""
    return decoder(config, dtype, Traits(qkv_bias=True))
