"""The sizes of the embedded model: the same classes as the huge one, another configuration."""

from transformers import LlamaConfig, PreTrainedTokenizerBase

from ibllm_tools.imagebind.configuration_imagebind import ImageBindConfig
from ibllm_tools.imagebind_llm.configuration_imagebind_llm import ImageBindLlmConfig

IMAGE_SIZE = 64
MEL_BINS, MEL_FRAMES = 64, 204
NUM_POINTS = 1024
TEXT_LENGTH = 24
PROJECTION_DIM = 192
AUDIO_CLIPS = 3


def imagebind_config(vocab_size: int) -> ImageBindConfig:
    """The joint embedding: image (and video), text, audio, depth, point clouds."""
    return ImageBindConfig(
        projection_dim=PROJECTION_DIM,
        vision_config={
            "hidden_size": 192,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "mlp_ratio": 3.0,
            "image_size": IMAGE_SIZE,
            "stem_channels": [32, 64, 128, 192],
        },
        text_config={
            "hidden_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "mlp_ratio": 3.0,
            "vocab_size": vocab_size,
            "max_position_embeddings": TEXT_LENGTH,
        },
        audio_config={
            "hidden_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "mlp_ratio": 3.0,
            "num_mel_bins": MEL_BINS,
            "target_length": MEL_FRAMES,
            "stem_channels": [16, 32, 64, 128],
            "drop_path_rate": 0.0,
            "logit_scale_init": None,
        },
        depth_config={
            "hidden_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "mlp_ratio": 3.0,
            "image_size": IMAGE_SIZE,
            "stem_channels": [32, 64, 96, 128],
            "logit_scale_init": None,
        },
        point_config={
            "hidden_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "mlp_ratio": 3.0,
            "num_groups": 48,
            "group_size": 16,
            "group_embedding_size": 96,
            "pointnet_channels": [32, 64, 96],
            "pooled_size": 192,
            "drop_path_rate": 0.0,
            "head_dropout": 0.0,
            "logit_scale_init": None,
        },
    )


def llama_config(tokenizer: PreTrainedTokenizerBase) -> LlamaConfig:
    """The language model: a Llama of 5 layers."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=256,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        attention_bias=True,
        mlp_bias=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def imagebind_llm_config(text_vocabulary: int, tokenizer: PreTrainedTokenizerBase) -> ImageBindLlmConfig:
    """The whole model: every layer of the language model is injected.

    Args:
        text_vocabulary: tokens of the text tower.
        tokenizer: of the language model.
    """
    return ImageBindLlmConfig(
        imagebind_config=imagebind_config(text_vocabulary),
        text_config=llama_config(tokenizer),
        bind_intermediate_size=384,
    )
