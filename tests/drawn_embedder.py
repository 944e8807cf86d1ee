"""An encoder for tests of everything around it: a random direction per content and segment, always the same."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from ibllm_tools.attachments import Attachment
from ibllm_tools.errors import CorruptMediaError, IbllmError
from ibllm_tools.media.sniff import Modality
from ibllm_tools.store.segments import Segment


class DrawnEmbedder:
    """Opens no media beyond what identifies them; ``encoded`` lists what it was asked for."""

    modalities: tuple[Modality, ...] = get_args(Modality)

    def __init__(self, fingerprint: str = "drawn", dimension: int = 32, damaged: Sequence[str] = ()) -> None:
        self.fingerprint, self.dimension, self.damaged = fingerprint, dimension, set(damaged)
        self.encoded: list[tuple[str, str, int]] = []

    def embed(self, attachments: Sequence[Attachment]) -> NDArray[np.float32]:
        return np.stack([self.draw(item.sha256, item.modality, 0) for item in attachments])

    def embed_segments(
        self, parts: Iterable[tuple[Attachment, Sequence[Segment]]]
    ) -> Iterator[NDArray[np.float32] | IbllmError]:
        for attachment, chosen in parts:
            for segment in chosen:
                self.encoded.append((attachment.name, segment.modality, segment.index))
                if attachment.name in self.damaged or f"{attachment.name}#{segment.index}" in self.damaged:
                    yield CorruptMediaError(f"{attachment.name}: segment {segment.index} is damaged; export it again")
                else:
                    yield self.draw(attachment.sha256, segment.modality, segment.index)

    def draw(self, sha256: str, modality: str, index: int) -> NDArray[np.float32]:
        seed = hashlib.sha256(f"{sha256}/{modality}/{index}".encode()).digest()[:8]
        row = np.random.default_rng(int.from_bytes(seed)).normal(size=self.dimension).astype(np.float32)
        return np.asarray(row / np.linalg.norm(row))
