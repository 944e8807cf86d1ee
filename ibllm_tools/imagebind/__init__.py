"""The joint embedding (ImageBind, arXiv 2305.05665, with Point-Bind, arXiv 2309.00615) as a transformers model."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ibllm_tools.imagebind.configuration_imagebind import ImageBindConfig
    from ibllm_tools.imagebind.modeling_imagebind import ImageBindModel, ImageBindOutput
    from ibllm_tools.imagebind.processing_imagebind import ImageBindProcessor
    from ibllm_tools.imagebind.tokenization_imagebind import clip_tokenizer, clip_tokenizer_from_bpe

_HOMES = {
    "ImageBindConfig": "configuration_imagebind",
    "ImageBindModel": "modeling_imagebind",
    "ImageBindOutput": "modeling_imagebind",
    "ImageBindProcessor": "processing_imagebind",
    "clip_tokenizer": "tokenization_imagebind",
    "clip_tokenizer_from_bpe": "tokenization_imagebind",
}

__all__ = [
    "ImageBindConfig",
    "ImageBindModel",
    "ImageBindOutput",
    "ImageBindProcessor",
    "clip_tokenizer",
    "clip_tokenizer_from_bpe",
]


def __getattr__(name: str) -> Any:
    """Import the file that holds a public name when it is first used; torch and transformers take seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
