"""Configuration of ImageBind-LLM: a joint embedding, a Llama-like language model, and what binds them."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from ibllm_tools.imagebind.configuration_imagebind import ImageBindConfig


@strict
class ImageBindLlmConfig(PreTrainedConfig):
    """ImageBind-LLM (arXiv 2309.03905): the joint embedding injected into the last layers of a language model.

    Attributes:
        imagebind_config: the joint embedding; its ``projection_dim`` is the input width E of the bind network.
        text_config: any Llama-like decoder of transformers; a dict without ``model_type`` is a ``LlamaConfig``.
        num_prefix_layers: N, how many of the last decoder layers receive the embedding; 0 is all of them.
        bind_intermediate_size: hidden width of the bind network's gated MLPs; 0 is four times the LLM's width.
        bind_norm_eps: epsilon of the bind network's RMSNorms.
        prefix_value_rank: rank of the LoRA that was merged into the value projections. The prefix passes through the
            value projection *without* its LoRA, so the merged difference is kept in low rank; 0 when there is none.
    """

    model_type = "imagebind_llm"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "imagebind_config": SubConfigSpec(config_class=ImageBindConfig),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
    }

    imagebind_config: Any = None
    text_config: Any = None
    num_prefix_layers: int = 0
    bind_intermediate_size: int = 0
    bind_norm_eps: float = 1e-6
    prefix_value_rank: int = 0

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.num_prefix_layers == 0:
            self.num_prefix_layers = self.text_config.num_hidden_layers
        if self.bind_intermediate_size == 0:
            self.bind_intermediate_size = 4 * self.text_config.hidden_size

    def validate_architecture(self) -> None:
        """Refuse more prefix layers than the language model has layers, or none."""
        layers = self.text_config.num_hidden_layers
        if not 1 <= self.num_prefix_layers <= layers:
            raise ValueError(
                f"num_prefix_layers is {self.num_prefix_layers}, expected 1 to {layers} (the LLM's layers)"
            )


AutoConfig.register("imagebind_llm", ImageBindLlmConfig, exist_ok=True)
