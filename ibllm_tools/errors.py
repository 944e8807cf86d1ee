"""Every error that ibllm-tools raises on purpose.

::

    IbllmError
    ├── AttachmentError                what the user handed in cannot be used
    │   ├── AttachmentNotFoundError        no such file, handle or URL
    │   ├── AttachmentAccessError          not readable, outside the allowed roots, or fetching is switched off
    │   ├── UnsupportedMediaError          not a kind of media that we read, or not the kind that was announced
    │   ├── CorruptMediaError              empty, truncated, undecodable, without content
    │   └── LimitExceededError             larger, longer or denser than the limits allow
    ├── InvalidRequestError            the call itself is wrong: empty question, weights that do not fit, ...
    ├── ModelError                     a model folder or hub id that cannot be used
    │   ├── ModelNotFoundError             nothing there
    │   └── IncompatibleModelError         something is there, but of another shape, version or vocabulary
    ├── CheckpointError                a checkpoint with missing, unexpected or wrongly shaped weights
    ├── StoreError                     a visual cache, library or attachment store that cannot be used
    │   ├── EncoderMismatchError           it holds the vectors of another encoder
    │   └── StoreLockedError               another process owns it
    └── MissingExtraError              an optional dependency is not installed (also an ImportError)

A message says what came in, what was expected, and the remedy. The CLI prints it as one line and exits with 2.
"""

import re


def one_line(text: object, longest: int = 120) -> str:
    """The text without line breaks, control characters and half surrogate pairs, shortened.

    That is what a message may quote of foreign input, and what can be written as UTF-8.
    """
    line = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+", " ", str(text)).strip()
    return line if len(line) <= longest else line[: longest - 1] + "…"


class IbllmError(Exception):
    """Base of every error that ibllm-tools raises on purpose."""


class AttachmentError(IbllmError):
    """An attachment cannot be used."""


class AttachmentNotFoundError(AttachmentError):
    """No such file, handle or URL."""


class AttachmentAccessError(AttachmentError):
    """The attachment exists but may not be read: permissions, allowed roots, or fetching switched off."""


class UnsupportedMediaError(AttachmentError):
    """Not a kind of media that we read, or not the kind that was announced."""


class CorruptMediaError(AttachmentError):
    """Empty, truncated, undecodable or without content."""


class LimitExceededError(AttachmentError):
    """Larger, longer or denser than the limits allow."""


class InvalidRequestError(IbllmError, ValueError):
    """The call itself is wrong: an empty question, weights that do not fit, an unknown modality."""


class ModelError(IbllmError):
    """A model folder or hub id cannot be used."""


class ModelNotFoundError(ModelError):
    """There is no model at the given place."""


class IncompatibleModelError(ModelError):
    """The model is of another shape, version or vocabulary than what it is to work with."""


class CheckpointError(IbllmError):
    """A checkpoint has missing, unexpected or wrongly shaped weights."""


class StoreError(IbllmError):
    """A visual cache, media library or attachment store cannot be used."""


class EncoderMismatchError(StoreError):
    """The store holds the vectors of another encoder."""


class StoreLockedError(StoreError):
    """Another process owns the store."""


class MissingExtraError(IbllmError, ImportError):
    """An optional dependency is not installed.

    Args:
        feature: what was asked for, e.g. ``"decoding video"``.
        package: the import that failed, e.g. ``"av"``.
        extra: the extra of ibllm-tools that installs it, e.g. ``"video"``.
    """

    def __init__(self, feature: str, package: str, extra: str) -> None:
        super().__init__(f"{feature} needs {package!r}, which is not installed: pip install 'ibllm-tools[{extra}]'")
        self.extra = extra
