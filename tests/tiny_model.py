"""An untrained model with the embedded model's architecture, saved as a model is shipped."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import GenerationConfig

from ibllm_tools.imagebind.processing_imagebind import ImageBindProcessor
from ibllm_tools.imagebind_llm import ImageBindLlmForConditionalGeneration, ImageBindLlmProcessor
from ibllm_tools.mini import architecture
from ibllm_tools.mini.world.language.tokenization import train_clip_tokenizer, train_tokenizer

TEXTS = ("What is this?", "Describe this.", "It is a red bell. It rings.", "What is making this sound?")
MAX_NEW_TOKENS = 12


def saved_tiny_model(folders: pytest.TempPathFactory) -> Path:
    """The model's folder; made by the first test file of the session that asks for it."""
    folder = folders.getbasetemp() / "tiny-model"
    if not folder.exists():
        _save_to(folder)
    return folder


def _save_to(folder: Path) -> None:
    words, clip_words = train_tokenizer(TEXTS, 300), train_clip_tokenizer(TEXTS, 540)
    torch.manual_seed(0)
    config = architecture.imagebind_llm_config(len(clip_words), words)
    config.text_config.tie_word_embeddings = False
    model = ImageBindLlmForConditionalGeneration(config)
    merged = [id_ for token, id_ in words.get_vocab().items() if len(token) > 2 and not token.startswith("<")]
    _make_it_talk(model, sorted(merged))
    model.generation_config = GenerationConfig.from_model_config(model.config.text_config)
    model.generation_config.max_new_tokens = MAX_NEW_TOKENS
    model.half().save_pretrained(folder)
    processor = ImageBindProcessor(
        clip_words,
        image_size=architecture.IMAGE_SIZE,
        num_mel_bins=architecture.MEL_BINS,
        audio_target_length=architecture.MEL_FRAMES,
        num_points=architecture.NUM_POINTS,
        context_length=architecture.TEXT_LENGTH,
    )
    ImageBindLlmProcessor(processor, words, prompt_template="Q: {instruction}\nA:").save_pretrained(folder)
    features = torch.nn.functional.normalize(torch.randn(32, architecture.PROJECTION_DIM), dim=-1)
    save_file({"features": features.half()}, folder / "visual_cache.safetensors")


@torch.no_grad()
def _make_it_talk(model: ImageBindLlmForConditionalGeneration, vocabulary: list[int]) -> None:
    """Weights that an untrained model needs to say different words about different attachments."""
    torch.nn.init.normal_(model.gates)
    torch.nn.init.normal_(model.bind_network.proj.weight)
    torch.nn.init.zeros_(model.prefix_queries)  # what is the same for every attachment
    torch.nn.init.normal_(model.language_model.model.embed_tokens.weight)
    head = model.language_model.lm_head.weight
    head.zero_()
    head[vocabulary] = torch.randn(len(vocabulary), head.shape[1])
