"""Attachments of any modality as unit vectors of the joint space."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ibllm_tools.assistant.loading import choose_device, load_imagebind
from ibllm_tools.assistant.model_folder import MINI, find_model
from ibllm_tools.attachments import Attachment
from ibllm_tools.errors import IbllmError, IncompatibleModelError, InvalidRequestError
from ibllm_tools.imagebind.fingerprint import fingerprint_of, stored_fingerprint
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
        fingerprint: the encoder's, where it is known: that of the files which the model was loaded from.
    """

    def __init__(
        self,
        model: ImageBindModel,
        processor: ImageBindProcessor,
        *,
        limits: Limits = DEFAULT_LIMITS,
        fingerprint: str | None = None,
    ) -> None:
        self.model, self.processor, self.limits = model, processor, limits
        self._fingerprint = fingerprint

    @classmethod
    def load(
        cls,
        model: str | Path = MINI,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> Self:
        """Load an encoder: that of an ImageBind model, or the one inside an ImageBind-LLM, without its language model.

        Args:
            model: ``"mini"``, the one embedded in the package; a converted model's folder; or a hub id ``owner/name``,
                the only case in which anything is downloaded.
            device: ``"cpu"``, ``"cuda"``, ...; by default CUDA where there is one.
            dtype: of the weights, ``"float32"``, ``"float16"`` or ``"bfloat16"``; by default as stored, but never
                float16 on a CPU: float32 there, or bfloat16 for files of more than 2 GiB.
            limits: bounds on what is decoded.

        Raises:
            ModelNotFoundError: there is no such model.
            IncompatibleModelError: a model of another kind.
            CheckpointError, ModelError: its files are damaged.
            InvalidRequestError: no such device or type.

        Example:
            >>> embedder = JointEmbedder.load("checkpoints/imagebind-huge", dtype="bfloat16")
            >>> embedder.embed([Attachment("bell.wav"), Attachment("bell.png")]).shape
            (2, 1024)
        """
        chosen = choose_device(device)
        folder = find_model(model)
        return cls(*load_imagebind(folder, chosen, dtype), limits=limits, fingerprint=stored_fingerprint(folder))

    @property
    def dimension(self) -> int:
        """Width E of the joint embedding."""
        return int(self.model.config.projection_dim)

    @cached_property
    def fingerprint(self) -> str:
        """The encoder's, see :mod:`ibllm_tools.imagebind.fingerprint`.

        Computed on first use where it was not given: a huge model takes seconds.
        """
        return self._fingerprint or fingerprint_of(self.model, self.processor)

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
