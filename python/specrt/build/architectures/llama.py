"""Llama: the decoder without additions.

Touvron et al. 2023 (arXiv 2302.13971), section 2.2; the computation of LlamaForCausalLM.
"""

from specrt.build.architectures.blocks import Traits
from specrt.build.architectures.decoder import decoder
from specrt.build.config import ModelConfig
from specrt.build.graph import DType, Graph


def graph(config: ModelConfig, dtype: DType) -> Graph:
    """Graph of a step, unfused; weights, caches and the inputs of matmuls in `dtype`."""
    return decoder(config, dtype, Traits())
