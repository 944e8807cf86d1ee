"""What a model can take in, as LangChain's model profile says it; read from its configuration, without loading it."""

import json
from pathlib import Path
from typing import Any

from langchain_core.language_models.model_profile import ModelProfile

from ibllm_tools.assistant.model_folder import MINI, mini_folder

_TOWERS = {"image_inputs": "vision_config", "video_inputs": "vision_config", "audio_inputs": "audio_config"}


def profile_of(model: str, *, fetches: bool) -> ModelProfile | None:
    """The profile of ``"mini"`` or of a folder; ``None`` for a hub id, which is not fetched to be looked at.

    Args:
        model: see ``Assistant.load``.
        fetches: whether URLs are.
    """
    folder = mini_folder() if model == MINI else Path(model).expanduser()
    file = folder / "config.json"
    return read_profile(json.loads(file.read_text(encoding="utf-8")), fetches=fetches) if file.is_file() else None


def read_profile(config: dict[str, Any], *, fetches: bool) -> ModelProfile:
    """The profile that the configuration of an ImageBind-LLM means."""
    towers = config["imagebind_config"]
    has = {name: towers.get(tower, {}) is not None for name, tower in _TOWERS.items()}
    return ModelProfile(
        open_weights=True,
        max_input_tokens=int(config["text_config"]["max_position_embeddings"]),
        text_inputs=True,
        image_inputs=has["image_inputs"],
        image_url_inputs=has["image_inputs"] and fetches,
        audio_inputs=has["audio_inputs"],
        video_inputs=has["video_inputs"],
        pdf_inputs=False,
        image_tool_message=has["image_inputs"],
        pdf_tool_message=False,
        text_outputs=True,
        image_outputs=False,
        audio_outputs=False,
        video_outputs=False,
        reasoning_output=False,
        tool_calling=True,
        tool_choice=True,
        tool_call_streaming=True,
        structured_output=True,
    )
