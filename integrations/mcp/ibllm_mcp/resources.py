"""What a library holds as resources of MCP, which a client's user or program may read.

``media://library/<sha256>`` is a source, ``media://thumbnail/<sha256>`` a small picture of one. Nothing else can be
read: a file that is not in the library has no address.
"""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import mcp_types
from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError

from ibllm_tools.assistant.answer import Answer, Evidence
from ibllm_tools.errors import AttachmentError, one_line
from ibllm_tools.library import Entry
from ibllm_tools.media.limits import MEBIBYTE
from ibllm_tools.toolbox import MediaListing, SearchResult

if TYPE_CHECKING:
    from ibllm_tools.library import MediaLibrary
    from ibllm_tools.toolbox import Toolbox

ADDRESS = re.compile(r"media://(library|thumbnail)/([0-9a-f]{64})")
MAX_BYTES = 16 * MEBIBYTE
LISTED = 100
SAID_CHARS = 240

TEMPLATES = (
    mcp_types.ResourceTemplate(
        name="library",
        title="A source of the media library",
        uri_template="media://library/{sha256}",
        description=f"The bytes of an image, sound, video or 3D model, up to {MAX_BYTES // MEBIBYTE} MiB, or a text.",
    ),
    mcp_types.ResourceTemplate(
        name="thumbnail",
        title="A thumbnail",
        uri_template="media://thumbnail/{sha256}",
        description="A small picture of an image, a video or a 3D model in the media library.",
    ),
)


def listed(toolbox: "Toolbox") -> list[mcp_types.Resource]:
    """The first sources of the library; ``list_media`` pages through all of them."""
    if toolbox.library is None:
        return []
    alike = {entry.sha256: entry for entry in reversed(toolbox.list_media(limit=LISTED).entries)}
    return [mcp_types.Resource(**_described(entry)) for entry in reversed(alike.values())]


def read(toolbox: "Toolbox", uri: str) -> ReadResourceContents:
    """The bytes of a resource, or its text, with the MIME type.

    Raises:
        ResourceNotFoundError: no address of a resource, or nothing is there any more.
        ResourceError: it is too large.
    """
    match = ADDRESS.fullmatch(uri)
    library = toolbox.library
    if match is None or library is None:
        raise ResourceNotFoundError(
            f"{one_line(uri)}: no resource of this server, expected media://library/<sha256> or "
            "media://thumbnail/<sha256>; take it from resources/list or from a resource link"
        )
    try:
        return _source(library, uri, match[2]) if match[1] == "library" else _thumbnail(library, uri, match[2])
    except AttachmentError as error:
        raise ResourceNotFoundError(one_line(error, 500)) from error


def links(toolbox: "Toolbox", result: object) -> list[mcp_types.ResourceLink]:
    """Links to what a result names, as far as it is in the library; thumbnails of hits too."""
    if toolbox.library is None:
        return []
    if isinstance(result, SearchResult):
        pictures = [_thumbnail_link(hit, hit.thumbnail) for hit in result.hits if hit.thumbnail is not None]
        return [*_links(result.hits), *pictures]
    if isinstance(result, MediaListing):
        return _links(result.entries)
    if isinstance(result, Answer):
        return _links([item for item in result.evidence if toolbox.library.catalogue.with_content(item.sha256)])
    return []


def _source(library: "MediaLibrary", uri: str, sha256: str) -> ReadResourceContents:
    records = library.catalogue.with_content(sha256)
    if not records:
        raise ResourceNotFoundError(f"{uri}: not in the library; take an address from list_media")
    _require_size(uri, records[0].size)
    opened = library.attachment(f"att://{sha256}")
    content = opened.read_bytes()
    if opened.modality == "text":
        return ReadResourceContents(content=content.decode("utf-8", errors="replace"), mime_type=opened.mime)
    return ReadResourceContents(content=content, mime_type=opened.mime)


def _thumbnail(library: "MediaLibrary", uri: str, sha256: str) -> ReadResourceContents:
    store, handle = library.attachments, f"att://{sha256}"
    if store is None or handle not in store or not store.meta(handle).mime.startswith("image/"):
        raise ResourceNotFoundError(f"{uri}: no thumbnail of the library; take an address from a resource link")
    path = store.path(handle)
    _require_size(uri, path.stat().st_size)
    return ReadResourceContents(content=path.read_bytes(), mime_type=store.meta(handle).mime)


def _require_size(uri: str, size: int) -> None:
    if size > MAX_BYTES:
        raise ResourceError(
            f"{uri}: {size:,} bytes, the limit of a resource is {MAX_BYTES:,}; ask about it with ask_attachment"
        )


def _links(items: Iterable[Entry | Evidence]) -> list[mcp_types.ResourceLink]:
    alike = {item.sha256: mcp_types.ResourceLink(**_described(item)) for item in reversed(list(items))}
    return list(reversed(alike.values()))


def _thumbnail_link(entry: Entry, handle: str) -> mcp_types.ResourceLink:
    return mcp_types.ResourceLink(
        uri=f"media://thumbnail/{handle.removeprefix('att://')}",
        name=f"thumbnail of {one_line(entry.name)}",
        mime_type="image/webp",
    )


def _described(item: Entry | Evidence) -> dict[str, Any]:
    said = item.text or item.caption if isinstance(item, Entry) else item.caption
    return {
        "uri": f"media://library/{item.sha256}",
        "name": one_line(item.name),
        "title": one_line(item.title) if isinstance(item, Entry) else None,
        "mime_type": item.mime,
        "description": None if said is None else one_line(said, SAID_CHARS),
    }
