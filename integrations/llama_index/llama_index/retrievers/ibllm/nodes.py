"""Hits of the library as nodes: something to read, the medium itself, and where it is."""

from pathlib import Path
from typing import Any

from llama_index.core.schema import MediaResource, Node, NodeRelationship, NodeWithScore, RelatedNodeInfo

from ibllm_tools.attachments import AttachmentStore
from ibllm_tools.library import Hit

CITED = "citation"
"""The one of our metadata that a language model reads beside the text."""


def node_of(hit: Hit, store: AttachmentStore | None) -> NodeWithScore:
    """A hit as a node. What has no caption reads as its title and what it is; it is never left out.

    Args:
        hit: what was found.
        store: where thumbnails and what is no file lie.
    """
    own = _metadata(hit, store)
    users = {key: hit.metadata[key] for key in sorted(hit.metadata) if key not in own}
    medium = _medium(hit, store)
    node = Node(
        id_=hit.id,
        text_resource=MediaResource(text=hit.readable, mimetype="text/plain"),
        image_resource=medium.get("image"),
        audio_resource=medium.get("audio"),
        video_resource=medium.get("video"),
        extra_info={**users, **own},  # its metadata
        excluded_llm_metadata_keys=[key for key in own if key != CITED],
        excluded_embed_metadata_keys=list(own),
        relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=hit.handle)},
    )
    return NodeWithScore(node=node, score=hit.score)


def _metadata(hit: Hit, store: AttachmentStore | None) -> dict[str, Any]:
    known = {
        CITED: hit.citation,
        "source": hit.source,
        "name": hit.name,
        "title": hit.title,
        "modality": hit.modality,
        "mime": hit.mime,
        "start": hit.start,
        "end": hit.end,
        "duration": hit.duration,
        "char_start": hit.char_start,
        "char_end": hit.char_end,
        "sha256": hit.sha256,
        "handle": hit.handle,
        "thumbnail": _stored(hit.thumbnail, store),
        "tags": list(hit.tags) or None,
    }
    return {key: value for key, value in known.items() if value is not None}


def _medium(hit: Hit, store: AttachmentStore | None) -> dict[str, MediaResource]:
    """The resource that LlamaIndex has for it: none for 3D models, arrays, texts, and files that have gone."""
    kind = "image" if hit.modality in ("depth", "thermal") and hit.mime.startswith("image/") else hit.modality
    place = _stored(hit.source, store) if hit.source.startswith("att://") else hit.source
    if kind not in ("image", "audio", "video") or place is None or not Path(place).is_file():
        return {}
    return {kind: MediaResource(path=Path(place), mimetype=hit.mime)}


def _stored(handle: str | None, store: AttachmentStore | None) -> str | None:
    return str(store.path(handle)) if handle and store is not None and handle in store else None
