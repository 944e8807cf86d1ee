"""What a store needs of a model: a way to turn attachments into unit vectors, and a name for it."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ibllm_tools.attachments import Attachment


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

    def embed(self, attachments: Sequence[Attachment]) -> NDArray[np.float32]:
        """Embed a batch.

        Returns:
            Unit vectors, one row per attachment, (B, E).

        Raises:
            AttachmentError: one of the attachments cannot be used.
        """
        ...
