"""An encoder for tests of Ray: random directions, which actors can load too, and trouble on request."""

import os
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from drawn_embedder import DrawnEmbedder
from numpy.typing import NDArray

from ibllm_tools.attachments import Attachment
from ibllm_tools.errors import IbllmError
from ibllm_tools.store.segments import Segment

LOADING = "loading"
"""Among the deadly names: the loading of the encoder."""


@dataclass(frozen=True)
class DrawnSource:
    """Where actors get the encoder from.

    Attributes:
        notes: a folder in which every segment that an actor encodes leaves a file.
        damaged: names of files that cannot be encoded.
        deadly: names of files that kill the process whenever it comes to them.
        deadly_once: those that kill it the first time.
        fingerprint: of the encoder that is found.
        dimension: of its vectors.
        seconds: that every segment takes.
    """

    notes: Path
    damaged: tuple[str, ...] = ()
    deadly: tuple[str, ...] = ()
    deadly_once: tuple[str, ...] = ()
    fingerprint: str = "drawn"
    dimension: int = 32
    seconds: float = 0.0
    device: str | None = None

    def load(self, device: str | None = None) -> "DrawnInActors":
        embedder = DrawnInActors(self)
        if device is not None:  # which only actors name
            embedder.beware(LOADING)
        return embedder

    def noted(self) -> list[str]:
        """Names of the files that actors encoded, once per segment and try."""
        return sorted(path.name.split("~")[0] for path in self.notes.glob("*~*"))

    def forget(self) -> None:
        """Remove the notes."""
        for note in self.notes.iterdir():
            note.unlink()


class DrawnInActors(DrawnEmbedder):
    def __init__(self, source: DrawnSource, fingerprint: str | None = None) -> None:
        super().__init__(fingerprint or source.fingerprint, source.dimension, source.damaged)
        self.source = source

    def embed_segments(
        self, parts: Iterable[tuple[Attachment, Sequence[Segment]]]
    ) -> Iterator[NDArray[np.float32] | IbllmError]:
        def watched() -> Iterator[tuple[Attachment, Sequence[Segment]]]:
            for attachment, segments in parts:
                self.beware(attachment.name)
                for segment in segments:
                    time.sleep(self.source.seconds)
                    note = f"{attachment.name}~{segment.index}~{time.monotonic_ns()}"
                    (self.source.notes / note).touch()
                yield attachment, segments

        return super().embed_segments(watched())

    def beware(self, name: str) -> None:
        """Die, where that is what the name stands for."""
        mark = self.source.notes / f"killed by {name}"
        if name in self.source.deadly or (name in self.source.deadly_once and not mark.exists()):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
