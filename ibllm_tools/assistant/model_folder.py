"""Where a model and its visual cache lie, and as what the model can be loaded.

Imports no torch.
"""

from importlib.resources import files
from pathlib import Path

from ibllm_tools.errors import InvalidRequestError, ModelNotFoundError, StoreError
from ibllm_tools.hub import fetched, is_hub_id

MINI = "mini"
QUANTIZATIONS = ("int8", "int4")
CACHE_FILE = "visual_cache.safetensors"
CHROMA_FILE = "chroma.sqlite3"
CACHE_TENSOR = "features"
HUB_PATTERNS = ["*.json", "*.txt", "*.model", "*.safetensors"]  # in subfolders too; no pickles


def mini_folder() -> Path:
    """Where the embedded model is shipped; it imports nothing of :mod:`ibllm_tools.mini`."""
    return Path(str(files("ibllm_tools"))) / "mini" / "weights"


def find_model(model: str | Path) -> Path:
    """The folder of a model.

    Args:
        model: ``"mini"``, a folder, or a hub id ``owner/name``, whose files are then fetched into the hub's own cache.

    Raises:
        ModelNotFoundError: there is no model.
        InvalidRequestError: what is named is no text and no path.
    """
    if not isinstance(model, str | Path):
        raise InvalidRequestError(
            f"model of type {type(model).__name__}, expected 'mini', a model's folder or a hub id (owner/name)"
        )
    folder = mini_folder() if model == MINI else Path(model).expanduser()
    if (folder / "config.json").is_file():
        return folder
    if model == MINI:
        raise ModelNotFoundError(f"{folder}: the embedded model is not there; reinstall ibllm-tools")
    if folder.exists():
        raise ModelNotFoundError(f"{model}: no config.json in it, expected the folder of a converted model")
    if is_hub_id(model):
        return fetched(model, HUB_PATTERNS)
    raise ModelNotFoundError(f"{model}: no such folder; expected 'mini', a model's folder or a hub id (owner/name)")


def find_cache(cache: bool | str | Path, folder: Path) -> str | Path | None:
    """Where a visual cache lies: the folder of one in ChromaDB, the URL of a server, or a file of image features.

    Args:
        cache: a folder or a URL (``"http://host:port"``); or whether to take the one that the model is shipped with,
            in ChromaDB before a file.
        folder: the model's, see :func:`find_model`.

    Raises:
        StoreError: there is no cache in the folder that was named.
    """
    if isinstance(cache, bool):
        return _shipped_cache(folder) if cache else None
    if str(cache).startswith(("http://", "https://")):
        return str(cache)
    place = Path(cache).expanduser()
    if not (place / CHROMA_FILE).is_file():
        raise StoreError(
            f"{place}: no visual cache (no {CHROMA_FILE}) there, expected a folder that 'ibllm cache build' or "
            "'ibllm convert cache' made, or http://host:port; leave it out for the model's own"
        )
    return place


def _shipped_cache(folder: Path) -> Path | None:
    from ibllm_tools.checkpoints.visual_cache import CACHE_FOLDER

    if (folder / CACHE_FOLDER / CHROMA_FILE).is_file():
        return folder / CACHE_FOLDER
    return folder / CACHE_FILE if (folder / CACHE_FILE).is_file() else None
