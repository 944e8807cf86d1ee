"""What the libraries of a database refer to in the attachment store."""

from collections.abc import Iterator

from ibllm_tools.library.catalogue import MODALITIES
from ibllm_tools.library.entry import is_path
from ibllm_tools.store.chroma import VectorDatabase

PAGE = 1000


def references(database: VectorDatabase) -> Iterator[str]:
    """The handles of all thumbnails, and of all sources that are no files; some come more than once.

    Whichever library of the database they belong to: these share a store.

    Raises:
        StoreError: the database cannot be read.
    """
    for name in database.names():
        if name.rpartition(".")[2] not in ("sources", *MODALITIES):
            continue
        identity = database.metadata(name) or {}
        collection = database.collection(
            name, fingerprint=str(identity.get("fingerprint")), dimension=int(identity.get("dimension", 1))
        )
        place = 0
        while (records := collection.find(limit=PAGE, offset=place, include=["metadatas"])).ids:
            place += len(records.ids)
            for metadata in records.metadatas:
                if isinstance(thumbnail := metadata.get("thumbnail"), str):
                    yield thumbnail
                if isinstance(source := metadata.get("source"), str) and not is_path(source):
                    yield f"att://{metadata.get('sha256')}"
