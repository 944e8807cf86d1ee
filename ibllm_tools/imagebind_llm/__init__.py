"""ImageBind-LLM (arXiv 2309.03905): a bind network and gated injection on a Llama-like decoder."""

from ibllm_tools.imagebind_llm.configuration_imagebind_llm import ImageBindLlmConfig
from ibllm_tools.imagebind_llm.modeling_imagebind_llm import (
    BindNetwork,
    ImageBindLlmForConditionalGeneration,
    image_generation_embedding,
    mix_embeddings,
)
from ibllm_tools.imagebind_llm.processing_imagebind_llm import ImageBindLlmProcessor

__all__ = [
    "BindNetwork",
    "ImageBindLlmConfig",
    "ImageBindLlmForConditionalGeneration",
    "ImageBindLlmProcessor",
    "image_generation_embedding",
    "mix_embeddings",
]
