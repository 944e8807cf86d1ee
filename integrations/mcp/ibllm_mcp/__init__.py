"""ImageBind-LLM as a server of the Model Context Protocol: ``ibllm mcp``, or :func:`create_server` in other programs.

Importing it loads neither the SDK nor a model.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ibllm_mcp.lazy_toolbox import LazyToolbox
    from ibllm_mcp.server import MediaServer, create_server
    from ibllm_mcp.transports import serve_http, serve_stdio

_HOMES = {
    "LazyToolbox": "lazy_toolbox",
    "MediaServer": "server",
    "create_server": "server",
    "serve_http": "transports",
    "serve_stdio": "transports",
}

__all__ = ["LazyToolbox", "MediaServer", "create_server", "serve_http", "serve_stdio"]


def __getattr__(name: str) -> Any:
    """Import the file that holds a public name when it is first used.

    Raises:
        MissingExtraError: the SDK is not installed.
    """
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        from ibllm_tools.errors import MissingExtraError

        if error.name is None or error.name.partition(".")[0] not in ("mcp", "mcp_types"):
            raise
        raise MissingExtraError("ibllm_mcp", "mcp", "mcp") from error


def __dir__() -> list[str]:
    return __all__
