"""Fetching the files of a hub id; only ever called with one that the user named. Imports no torch."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

from ibllm_tools.errors import ModelNotFoundError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_hub_id(name: object) -> TypeGuard[str]:
    """Whether this is ``owner/name`` on the hub; not where ``owner`` is a folder here, so that a typo asks nobody."""
    return isinstance(name, str) and _HUB_ID.fullmatch(name) is not None and not Path(name).parent.is_dir()


def fetched(hub_id: str, patterns: Sequence[str], **options: Any) -> Path:
    """The folder of a repository's files, in the hub's own cache.

    Args:
        hub_id: ``owner/name``.
        patterns: of the files to fetch, e.g. ``"*.json"``.
        options: of :func:`huggingface_hub.snapshot_download`, e.g. ``revision`` or ``local_files_only``.

    Raises:
        ModelNotFoundError: there is no such repository, or it cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(patterns), **options))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise ModelNotFoundError(
            f"{hub_id}: neither a folder nor reachable on the hub ({type(error).__name__}); check the name, your "
            "connection and, for private models, your login"
        ) from error
