"""Nothing phones home: neither telemetry, nor Chroma's own embedding models, whatever is done with a library."""

import socket
from pathlib import Path

import pytest
from chromadb.utils import embedding_functions
from drawn_embedder import DrawnEmbedder
from sample_files import write_image

from ibllm_tools import MediaLibrary


def test_a_library_opens_no_connection_and_no_embedding_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: list[object] = []

    def refuse(*arguments: object, **_: object) -> None:
        reached.append(arguments[1:])
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(embedding_functions.DefaultEmbeddingFunction, "__call__", refuse)
    picture = write_image(tmp_path / "red.png")
    for _ in range(2):
        with MediaLibrary.open(tmp_path / "library", embedder=DrawnEmbedder()) as library:
            library.add(picture, caption="A red square.", tags=["old"])
            library.add(picture, caption="A crimson square.", tags=["new"])
            for ranking in ("similarity", "words", "hybrid"):
                assert library.search("a crimson square", ranking=ranking, where={"tags": {"$contains": "new"}})
            assert library.verify().ok
            library.prune()
            library.stats()
    assert reached == []
