"""Official checkpoints -> folders that ``from_pretrained`` loads.

One file per conversion, named after what it makes: ``imagebind``, ``point_bind``, ``imagebind_llm``, ``visual_cache``.
Below them

- what is read: ``reading`` (any official file, safely), ``llama`` (with ``llama_meta`` and ``llama_hugging_face``,
  ``llama_tokenizer``), ``adapter_file``, ``clip_tokenizer``, ``faiss_index``, ``model_weights`` (a converted folder);
- what becomes of it: ``adapter_weights`` (LLaMA and adapter), ``imagebind.official_weights`` (one room below);
- what is written: ``writing`` (shard by shard), ``staging`` (whole or not at all), ``peft_adapter``, ``model_card``;
- what is known of published files: ``known_files``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ibllm_tools.checkpoints.imagebind import convert_imagebind
    from ibllm_tools.checkpoints.imagebind_llm import convert_imagebind_llm
    from ibllm_tools.checkpoints.point_bind import convert_point_bind
    from ibllm_tools.checkpoints.visual_cache import CacheConversion, convert_visual_cache
    from ibllm_tools.checkpoints.writing import Conversion

_HOMES = {
    "CacheConversion": "visual_cache",
    "Conversion": "writing",
    "convert_imagebind": "imagebind",
    "convert_imagebind_llm": "imagebind_llm",
    "convert_point_bind": "point_bind",
    "convert_visual_cache": "visual_cache",
}

__all__ = [
    "CacheConversion",
    "Conversion",
    "convert_imagebind",
    "convert_imagebind_llm",
    "convert_point_bind",
    "convert_visual_cache",
]


def __getattr__(name: str) -> Any:
    """Import the file that holds a public name when it is first used; torch and transformers take seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
