"""One assistant per process, shared by every face: a model is loaded once, however many objects ask for it."""

from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from ibllm_tools.assistant.access import Access
from ibllm_tools.assistant.assistant import DEFAULT_ACCESS, Assistant
from ibllm_tools.assistant.model_folder import MINI
from ibllm_tools.store.visual_cache import VisualCache


@dataclass(frozen=True)
class _Key:
    model: str
    device: str | None
    dtype: str | None
    quantization: str | None
    cache: bool | str


_LOADED: dict[_Key, Assistant] = {}
_LOCK = Lock()


def shared_assistant(
    model: str | Path = MINI,
    *,
    device: str | None = None,
    dtype: str | None = None,
    quantization: str | None = None,
    cache: bool | str | Path = True,
    access: Access = DEFAULT_ACCESS,
) -> Assistant:
    """An assistant whose weights and visual cache are shared with everyone who asked for the same ones.

    Loaded on the first call for these settings, which takes seconds and holds up other callers; the later ones are
    instant. It may be called from several threads. What is returned has an access of its own, so one who may open
    anything shares the weights with one who may not. Its ``close`` does nothing: the weights stay until
    :func:`release_shared_assistants`, or the end of the process.

    Args:
        model, device, dtype, quantization, cache: as in :meth:`Assistant.load`, whose errors it raises.
        access: what may be opened on behalf of whoever asks.
    """
    key = _Key(str(model), device, dtype, quantization, cache if isinstance(cache, bool) else str(cache))
    with _LOCK:
        if key not in _LOADED:
            _LOADED[key] = Assistant.load(model, device=device, dtype=dtype, quantization=quantization, cache=cache)
        return with_access(_LOADED[key], access)


def with_access(assistant: Assistant, access: Access) -> Assistant:
    """The same assistant, weights and visual cache shared, that opens what another access allows.

    Closing it does nothing: the visual cache stays with the one it was made of.
    """
    return _View(assistant, access)


def release_shared_assistants() -> None:
    """Close the visual caches and forget the weights; memory is free when nobody holds such an assistant any more.

    Who still holds one can ask it, without the visual cache. The next :func:`shared_assistant` loads again.
    """
    with _LOCK:
        for assistant in _LOADED.values():
            assistant.close()
        _LOADED.clear()


class _View(Assistant):
    """An assistant with the weights and the visual cache of another one, and an access of its own."""

    def __init__(self, whole: Assistant, access: Access) -> None:
        super().__init__(
            whole.model,
            whole.processor,
            name=whole.name,
            access=access,
            fingerprint=whole.embedder.fingerprint,
            source=whole.embedder.source,
        )
        self._whole = whole
        self._schemas = whole._schemas  # it takes the whole vocabulary apart, which is to be done once

    def close(self) -> None:
        """Nothing: the visual cache belongs to everyone who shares it."""

    def _chosen_cache(self, wanted: bool | None) -> bool:
        return self._whole._chosen_cache(wanted)

    def _opened_cache(self) -> VisualCache:
        return self._whole._opened_cache()
