"""Where a model lies: shipped with the package, in a folder, or on the hub. Imports no torch."""

import re
from importlib.resources import files
from pathlib import Path

from ibllm_tools.errors import ModelNotFoundError

MINI = "mini"
CACHE_FILE = "visual_cache.safetensors"
CACHE_TENSOR = "features"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
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
    """
    folder = mini_folder() if model == MINI else Path(model).expanduser()
    if (folder / "config.json").is_file():
        return folder
    if model == MINI:
        raise ModelNotFoundError(f"{folder}: the embedded model is not there; reinstall ibllm-tools")
    if folder.exists():
        raise ModelNotFoundError(f"{model}: no config.json in it, expected the folder of an ImageBind-LLM model")
    if isinstance(model, str) and HUB_ID.fullmatch(model):
        return _fetched(model)
    raise ModelNotFoundError(f"{model}: no such folder; expected 'mini', a model's folder or a hub id (owner/name)")


def _fetched(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=HUB_PATTERNS))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise ModelNotFoundError(
            f"{hub_id}: neither a folder nor reachable on the hub ({type(error).__name__}); check the name, your "
            "connection and, for private models, your login"
        ) from error
