"""Attachments of any modality as unit vectors of the joint space."""

import hashlib
import inspect
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ibllm_tools.attachments import Attachment
from ibllm_tools.errors import IbllmError, IncompatibleModelError, InvalidRequestError
from ibllm_tools.imagebind.modeling_imagebind import ImageBindModel
from ibllm_tools.imagebind.processing_imagebind import ImageBindProcessor
from ibllm_tools.media.limits import DEFAULT_LIMITS, Limits
from ibllm_tools.media.sniff import Modality

BATCH_SIZE = 16
"""Attachments that are decoded before they are encoded together: what bounds the memory."""

_Key = tuple[Modality, str]


class JointEmbedder:
    """Attachments -> decoded -> encoded -> unit vectors; an :class:`~ibllm_tools.store.embedder.Embedder`.

    Args:
        model: the joint embedding.
        processor: its processor.
        limits: bounds on what is decoded.
    """

    def __init__(
        self, model: ImageBindModel, processor: ImageBindProcessor, *, limits: Limits = DEFAULT_LIMITS
    ) -> None:
        self.model, self.processor, self.limits = model, processor, limits

    @property
    def dimension(self) -> int:
        """Width E of the joint embedding."""
        return int(self.model.config.projection_dim)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the weights, as float32, and the processor's settings and vocabulary.

        The same on every device, and for float16 weights loaded as float32. Computed on first use: a huge model takes
        seconds.
        """
        digest = hashlib.sha256(json.dumps(_settings(self.processor), sort_keys=True).encode())
        for name, weights in sorted(self.model.state_dict().items()):
            values = weights.detach().float() if weights.is_floating_point() else weights.detach()
            digest.update(f"{name} {tuple(values.shape)}".encode())
            digest.update(values.cpu().contiguous().reshape(-1).numpy().data)
        return digest.hexdigest()

    def embed(self, attachments: Sequence[Attachment]) -> NDArray[np.float32]:
        """Unit vectors, one row per attachment, (B, E).

        Raises:
            InvalidRequestError: no attachment at all.
            AttachmentError: one of them cannot be decoded.
            IncompatibleModelError: the model has no tower for one of them.
        """
        if not attachments:
            raise InvalidRequestError("no attachments to embed, expected at least one")
        rows = []
        for row in self.embed_each(attachments):
            if isinstance(row, IbllmError):
                raise row
            rows.append(row)
        return torch.stack(rows).numpy()  # (B, E)

    def embed_each(self, attachments: Sequence[Attachment]) -> list[Tensor | IbllmError]:
        """A unit vector (E,), float32 on the CPU, or the reason why there is none, per attachment.

        Attachments of one modality are encoded together, and equal ones once.
        """
        waiting: dict[_Key, Attachment] = {(item.modality, item.sha256): item for item in attachments}
        keys = sorted(waiting)  # modalities lie together
        embedded: dict[_Key, Tensor | IbllmError] = {}
        for start in range(0, len(keys), BATCH_SIZE):
            embedded |= self._embed_batch({key: waiting[key] for key in keys[start : start + BATCH_SIZE]})
        return [embedded[item.modality, item.sha256] for item in attachments]

    def _embed_batch(self, batch: Mapping[_Key, Attachment]) -> dict[_Key, Tensor | IbllmError]:
        embedded: dict[_Key, Tensor | IbllmError] = {}
        alike: defaultdict[tuple[Modality, torch.Size], dict[_Key, Tensor]] = defaultdict(dict)
        for key, attachment in batch.items():
            try:
                values = self._prepared(attachment)
            except IbllmError as error:
                embedded[key] = error
            else:
                alike[attachment.modality, values.shape][key] = values
        for (modality, _), inputs in alike.items():
            rows = self._encoded(modality, torch.cat(list(inputs.values())))
            embedded |= dict(zip(inputs, rows, strict=True))
        return embedded

    def _prepared(self, attachment: Attachment) -> Tensor:
        try:
            self.model.tower(attachment.modality)  # before decoding, which may take long
        except IncompatibleModelError as error:
            raise IncompatibleModelError(f"{attachment.name}: {error}") from error
        return self.processor.process(
            attachment.modality, [attachment.source], names=[attachment.name], limits=self.limits
        )

    @torch.no_grad()
    def _encoded(self, modality: Modality, values: Tensor) -> Tensor:
        embeddings = self.model.encode(modality, values.to(self.model.device))
        return F.normalize(embeddings.float(), dim=-1).cpu()  # (B, E)


def _settings(processor: ImageBindProcessor) -> dict[str, Any]:
    names = [
        name for name in inspect.signature(type(processor).__init__).parameters if name not in ("self", "tokenizer")
    ]
    vocabulary = sorted(processor.tokenizer.get_vocab().items())
    return {**{name: getattr(processor, name) for name in names}, "vocabulary": vocabulary}
