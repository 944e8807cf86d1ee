"""Fixtures of the tests of what lives in Chroma."""

import subprocess
from collections.abc import Iterator

import pytest
from chroma_server import served


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """The URL of a Chroma server, and its process."""
    with served(tmp_path_factory.mktemp("server")) as found:
        yield found
