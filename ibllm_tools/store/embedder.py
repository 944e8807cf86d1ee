"""What a store needs of a model: ways to turn attachments and parts of them into unit vectors, and a name for it."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ibllm_tools.attachments import Attachment
from ibllm_tools.errors import IbllmError
from ibllm_tools.media.sniff import Modality
from ibllm_tools.store.segments import Segment


class EncoderSource(Protocol):
    """Where an encoder was loaded from; it pickles, so that other processes and machines can load the same one."""

    @property
    def device(self) -> str | None:
        """The one that was asked for; ``None`` is the best there is."""
        ...

    def load(self, device: str | None = None) -> "Embedder":
        """Load it again, on another device where one is named.

        Raises:
            ModelError: it is not there, or cannot be used there.
        """
        ...


class Embedder(Protocol):
    """Turns attachments of any modality into unit vectors of one joint space."""

    @property
    def dimension(self) -> int:
        """Width E of the joint embedding."""
        ...

    @property
    def fingerprint(self) -> str:
        """Identifies weights and preprocessing; vectors of different fingerprints are not comparable."""
        ...

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What it can embed."""
        ...

    def embed(self, attachments: Sequence[Attachment]) -> NDArray[np.float32]:
        """Embed a batch.

        Returns:
            Unit vectors, one row per attachment, (B, E).

        Raises:
            AttachmentError: one of the attachments cannot be used.
        """
        ...

    def embed_segments(
        self, parts: Iterable[tuple[Attachment, Sequence[Segment]]]
    ) -> Iterator[NDArray[np.float32] | IbllmError]:
        """Embed parts of attachments, in batches across them.

        Args:
            parts: attachments, each with some of its segments in their order; read as they are needed.

        Yields:
            A unit vector (E,) per segment, in their order, or the reason why there is none.
        """
        ...
