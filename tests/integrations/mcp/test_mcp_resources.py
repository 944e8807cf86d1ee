"""What can be read of a library as resources, and what cannot."""

import base64
from io import BytesIO
from pathlib import Path

import mcp
import pytest
from PIL import Image

from ibllm_mcp import MediaServer, create_server, resources
from ibllm_tools import Assistant, MediaLibrary

SAMPLES = Path(__file__).parents[3] / "examples" / "media"


async def read(server: MediaServer, uri: str) -> tuple[str | None, bytes | str]:
    """The MIME type and the content."""
    async with mcp.Client(server) as client:
        (content,) = (await client.read_resource(uri)).contents
    assert str(content.uri) == uri
    if isinstance(content, mcp.types.TextResourceContents):
        return content.mime_type, content.text
    return content.mime_type, base64.b64decode(content.blob)


async def refusal(server: MediaServer, uri: str) -> str:
    """The one line that says why it is not read."""
    async with mcp.Client(server) as client:
        with pytest.raises(mcp.MCPError) as caught:
            await client.read_resource(uri)
    assert "\n" not in caught.value.error.message
    return caught.value.error.message


async def test_the_sources_of_the_library_are_listed(server: MediaServer, root: Path) -> None:
    async with mcp.Client(server) as client:
        listed = {item.name: item for item in (await client.list_resources()).resources}
        templates = (await client.list_resource_templates()).resource_templates
    assert listed.keys() == {"bell.wav", "bell.png", "notes.txt", "car.png"}
    assert listed["bell.wav"].mime_type == "audio/wav"
    assert listed["bell.wav"].description == "It is a bell."
    assert [template.uri_template for template in templates] == [
        "media://library/{sha256}",
        "media://thumbnail/{sha256}",
    ]


async def test_a_source_is_read_with_its_type(server: MediaServer, root: Path) -> None:
    listed = {item.name: str(item.uri) for item in await server.list_resources()}
    assert await read(server, listed["bell.wav"]) == ("audio/wav", (root / "bell.wav").read_bytes())
    assert await read(server, listed["notes.txt"]) == ("text/plain", (root / "notes.txt").read_text())


async def test_a_source_outside_the_roots_is_read_for_it_is_in_the_library(
    server: MediaServer, elsewhere: Path
) -> None:
    listed = {item.name: str(item.uri) for item in await server.list_resources()}
    assert await read(server, listed["car.png"]) == ("image/png", elsewhere.read_bytes())


async def test_a_thumbnail_is_a_small_picture(server: MediaServer, library: MediaLibrary) -> None:
    (hit,) = library.search("bell", k=1, modality="image")
    assert hit.thumbnail is not None
    mime, content = await read(server, f"media://thumbnail/{hit.thumbnail.removeprefix('att://')}")
    assert mime == "image/webp"
    assert isinstance(content, bytes)
    with Image.open(BytesIO(content)) as picture:
        assert picture.format == "WEBP"
        assert max(picture.size) <= 256


async def test_only_the_first_sources_are_listed(server: MediaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "LISTED", 2)
    assert len(await server.list_resources()) == 2


async def test_content_that_is_there_twice_is_listed_once(assistant: Assistant, tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        (tmp_path / name).write_bytes((SAMPLES / "bell.png").read_bytes())
    with MediaLibrary.open(None, embedder=assistant.embedder) as library:
        library.add(tmp_path, progress=False)
        server = create_server(assistant, library=library)
        assert [item.name for item in await server.list_resources()] == ["one.png"]
        listing = await server.call_tool("list_media", {})
        assert "one.png" in str(listing)
        assert "two.png" in str(listing)


async def test_what_is_too_large_is_not_read(server: MediaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "MAX_BYTES", 100)
    listed = {item.name: str(item.uri) for item in await server.list_resources()}
    assert "the limit of a resource is 100" in await refusal(server, listed["bell.wav"])
    assert (await read(server, listed["notes.txt"]))[0] == "text/plain"


@pytest.mark.parametrize(
    "uri",
    [
        f"media://library/{'0' * 64}",
        f"media://thumbnail/{'0' * 64}",
        "media://library/",
        "media://library/../../etc/passwd",
        f"media://library/{'0' * 64}/..",
        f"media://library/{'0' * 64}\n",
        f"media://elsewhere/{'0' * 64}",
        "file:///etc/passwd",
        "/etc/passwd",
    ],
)
async def test_no_other_address_can_be_read(server: MediaServer, uri: str) -> None:
    assert await refusal(server, uri)


async def test_a_source_is_no_thumbnail(assistant: Assistant, tmp_path: Path) -> None:
    with MediaLibrary.open(None, embedder=assistant.embedder, attachments=tmp_path) as library:
        library.add(texts=["The bell rings."], progress=False)
        (entry,) = library.list()
        server = create_server(assistant, library=library)
        assert await read(server, f"media://library/{entry.sha256}") == ("text/plain", "The bell rings.")
        assert "no thumbnail" in await refusal(server, f"media://thumbnail/{entry.sha256}")


async def test_what_has_changed_since_it_was_indexed_is_not_read(assistant: Assistant, tmp_path: Path) -> None:
    picture = tmp_path / "bell.png"
    picture.write_bytes((SAMPLES / "bell.png").read_bytes())
    with MediaLibrary.open(None, embedder=assistant.embedder) as library:
        library.add(picture, progress=False)
        server = create_server(assistant, library=library)
        (listed,) = await server.list_resources()
        picture.unlink()
        picture.symlink_to("/etc/passwd")
        assert "has not changed" in await refusal(server, str(listed.uri))


async def test_without_a_library_there_is_nothing_to_read(assistant: Assistant) -> None:
    server = create_server(assistant)
    assert await server.list_resources() == []
    assert "no resource of this server" in await refusal(server, f"media://library/{'0' * 64}")


async def test_a_library_that_cannot_be_opened_is_said(assistant: Assistant, tmp_path: Path) -> None:
    server = create_server(assistant, library=tmp_path / "missing", read_only=True)
    async with mcp.Client(server) as client:
        with pytest.raises(mcp.MCPError, match="no library there"):
            await client.list_resources()
    assert "no library there" in await refusal(server, f"media://library/{'0' * 64}")
    assert not (tmp_path / "missing").exists()
