"""An encoder that is known by name only, for what needs none: looking, exporting, importing, tidying up."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ibllm_tools.attachments import Attachment
from ibllm_tools.errors import IbllmError, InvalidRequestError
from ibllm_tools.media.sniff import Modality
from ibllm_tools.store.segments import Segment


@dataclass(frozen=True)
class AbsentEncoder:
    """Stands for the encoder whose vectors a library holds, where nothing has to be embedded.

    Attributes:
        fingerprint: the encoder's.
        dimension: width E of its vectors.
    """

    fingerprint: str
    dimension: int
    modalities: tuple[Modality, ...] = ()

    def embed(self, attachments: Sequence[Attachment]) -> NDArray[np.float32]:
        """Raise InvalidRequestError."""
        raise self._error()

    def embed_segments(
        self, parts: Iterable[tuple[Attachment, Sequence[Segment]]]
    ) -> Iterator[NDArray[np.float32] | IbllmError]:
        """Nothing where there are no parts; otherwise raise InvalidRequestError."""
        for _ in parts:
            raise self._error()
        yield from ()

    def _error(self) -> InvalidRequestError:
        return InvalidRequestError(
            f"the library was opened without its encoder {self.fingerprint!r}, and something has to be embedded; open "
            "it with embedder=..., the encoder that filled it"
        )
