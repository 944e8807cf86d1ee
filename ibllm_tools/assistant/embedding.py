"""Attachments of any modality as unit vectors of the joint space."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, islice, repeat
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ibllm_tools.assistant.loading import choose_device, load_imagebind
from ibllm_tools.assistant.model_folder import MINI, find_model
from ibllm_tools.assistant.reading_ahead import read_ahead
from ibllm_tools.attachments import Attachment
from ibllm_tools.errors import IbllmError, IncompatibleModelError, InvalidRequestError
from ibllm_tools.imagebind.fingerprint import fingerprint_of, stored_fingerprint
from ibllm_tools.imagebind.modeling_imagebind import ImageBindModel
from ibllm_tools.imagebind.processing_imagebind import ImageBindProcessor
from ibllm_tools.media.limits import DEFAULT_LIMITS, Limits
from ibllm_tools.media.sniff import Modality
from ibllm_tools.store.segments import Segment

BATCH_SIZE = 16
"""Attachments or segments that are decoded before they are encoded together: what bounds the memory."""

_Key = tuple[Modality, str]
_Prepared = tuple[Modality, Tensor] | IbllmError
"""What a tower takes, with a batch axis of 1; or why there is nothing."""
K = TypeVar("K")


@dataclass(frozen=True)
class ModelSource:
    """Where an encoder was loaded from; an :class:`~ibllm_tools.store.embedder.EncoderSource`.

    Attributes:
        model: ``"mini"``, an absolute path, or a hub id.
        device: the one that was asked for; ``None`` is the best there is.
        dtype: the one that was asked for; ``None`` is the stored one, as the device allows.
        limits: bounds on what is decoded.
    """

    model: str
    device: str | None = None
    dtype: str | torch.dtype | None = None
    limits: Limits = DEFAULT_LIMITS

    @classmethod
    def of(
        cls,
        model: str | Path,
        device: str | torch.device | None,
        dtype: str | torch.dtype | None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> Self:
        """What :meth:`JointEmbedder.load` was called with, as it is understood everywhere."""
        folder = Path(model).expanduser()
        name = str(model) if model == MINI or not folder.is_dir() else str(folder.resolve())
        return cls(name, None if device is None else str(device), dtype, limits)

    def load(self, device: str | None = None) -> "JointEmbedder":
        """Load it again; errors as :meth:`JointEmbedder.load`."""
        return JointEmbedder.load(self.model, device=device or self.device, dtype=self.dtype, limits=self.limits)


class JointEmbedder:
    """Attachments -> decoded -> encoded -> unit vectors; an :class:`~ibllm_tools.store.embedder.Embedder`.

    Args:
        model: the joint embedding.
        processor: its processor.
        limits: bounds on what is decoded.
        fingerprint: the encoder's, where it is known: that of the files which the model was loaded from.
        source: where it was loaded from, and can be loaded again; without one it stays in this process.
    """

    def __init__(
        self,
        model: ImageBindModel,
        processor: ImageBindProcessor,
        *,
        limits: Limits = DEFAULT_LIMITS,
        fingerprint: str | None = None,
        source: ModelSource | None = None,
    ) -> None:
        self.model, self.processor, self.limits, self.source = model, processor, limits, source
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
        return cls(
            *load_imagebind(folder, chosen, dtype),
            limits=limits,
            fingerprint=stored_fingerprint(folder),
            source=ModelSource.of(model, device, dtype, limits),
        )

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

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What it can embed."""
        return self.model.modalities

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

    def embed_segments(
        self, parts: Iterable[tuple[Attachment, Sequence[Segment]]]
    ) -> Iterator[NDArray[np.float32] | IbllmError]:
        """A unit vector (E,) per segment, or the reason why there is none, in the order of the segments.

        A window of a sound or a video is embedded as if it had been cut out as a file of its own. Each file is gone
        through once; segments are encoded in batches, also across attachments, and yielded batch by batch, so that
        an hour of film never lies in memory.

        Args:
            parts: attachments, each with some of its :func:`~ibllm_tools.store.segments.segments`, in their order;
                read, one after the other, by threads that decode what comes next while the model works.

        Example:
            >>> rows = np.stack(list(embedder.embed_segments([(film, segments(film))])))  # (S, E)
        """
        prepared = read_ahead(parts, lambda part: self._prepared_segments(*part))
        while batch := dict(enumerate(islice(prepared, BATCH_SIZE))):
            rows = self._encoded_together(batch)
            for position in batch:
                row = rows[position]
                yield row if isinstance(row, IbllmError) else row.numpy()

    def _embed_batch(self, batch: Mapping[_Key, Attachment]) -> dict[_Key, Tensor | IbllmError]:
        return self._encoded_together({key: self._prepared(attachment) for key, attachment in batch.items()})

    def _prepared(self, attachment: Attachment) -> _Prepared:
        try:
            return attachment.modality, self._whole(attachment, attachment.modality)
        except IbllmError as error:
            return error

    def _prepared_segments(self, attachment: Attachment, segments: Sequence[Segment]) -> Iterator[_Prepared]:
        """One for every segment, whatever happens."""
        for (modality, lasts), group in groupby(segments, key=lambda segment: (segment.modality, _lasts(segment))):
            alike, given = list(group), 0
            try:
                for item in self._windows(attachment, modality, alike) if lasts else self._parts(attachment, alike):
                    yield item
                    given += 1
            except IbllmError as error:  # of the file as a whole
                yield from repeat(error, len(alike) - given)

    def _windows(self, attachment: Attachment, modality: Modality, segments: Sequence[Segment]) -> Iterator[_Prepared]:
        self._require_tower(modality, attachment)
        bounds = [(segment.start or 0.0, segment.end or 0.0) for segment in segments]
        for values in self.processor.process_windows(modality, attachment.source, bounds, limits=self.limits):
            yield values if isinstance(values, IbllmError) else (modality, values[None])

    def _parts(self, attachment: Attachment, segments: Sequence[Segment]) -> Iterator[_Prepared]:
        for segment in segments:
            try:
                yield segment.modality, self._whole(attachment, segment.modality, segment.text)
            except IbllmError as error:
                yield error

    def _whole(self, attachment: Attachment, modality: Modality, text: str | None = None) -> Tensor:
        """What the tower takes of an attachment, or of a chunk of its text."""
        self._require_tower(modality, attachment)
        source = attachment.source if text is None else text
        return self.processor.process(modality, [source], names=[attachment.name], limits=self.limits)

    def _require_tower(self, modality: Modality, attachment: Attachment) -> None:
        try:
            self.model.tower(modality)  # before decoding, which may take long
        except IncompatibleModelError as error:
            raise IncompatibleModelError(f"{attachment.name}: {error}") from error

    def _encoded_together(self, prepared: Mapping[K, _Prepared]) -> dict[K, Tensor | IbllmError]:
        """Unit vectors (E,); inputs of one modality and shape are encoded in one batch."""
        embedded: dict[K, Tensor | IbllmError] = {}
        alike: defaultdict[tuple[Modality, torch.Size], dict[K, Tensor]] = defaultdict(dict)
        for key, item in prepared.items():
            if isinstance(item, IbllmError):
                embedded[key] = item
            else:
                modality, values = item
                alike[modality, values.shape][key] = values
        for (modality, _), inputs in alike.items():
            rows = self._encoded(modality, torch.cat(list(inputs.values())))
            embedded |= dict(zip(inputs, rows, strict=True))
        return embedded

    @torch.no_grad()
    def _encoded(self, modality: Modality, values: Tensor) -> Tensor:
        embeddings = self.model.encode(modality, values.to(self.model.device))
        return F.normalize(embeddings.float(), dim=-1).cpu()  # (B, E)


def _lasts(segment: Segment) -> bool:
    return segment.start is not None and segment.end is not None
