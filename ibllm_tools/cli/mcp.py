"""``ibllm mcp``."""

import argparse
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ibllm_tools.cli import options as shared
from ibllm_tools.cli.terminal import interrupted_at_once
from ibllm_tools.errors import MissingExtraError

if TYPE_CHECKING:
    from ibllm_tools.toolbox import Toolbox

DESCRIPTION = """\
Serve the tools ask_attachment, describe_attachment, search_media, index_media and list_media to agents, over the Model
Context Protocol. Agents may name files below the roots, and no others; what is in the library can be used wherever it
lies. The model is loaded while the first client connects. Logs are on stderr."""
EXAMPLES = """\
examples:
  ibllm mcp --root ~/Pictures --library library
  ibllm mcp --library library --read-only
  ibllm mcp --root media --library library --transport http --port 8000
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Library, transport, model."""
    library = parser.add_argument_group("library")
    library.add_argument(
        "--library",
        metavar="LIBRARY",
        help="its folder, made where there is none, or a Chroma server (http://host:port); without it there are tools "
        "to ask and to describe alone",
    )
    shared.add_library_arguments(library)
    library.add_argument("--read-only", action="store_true", help="leave out index_media; make no library")
    transport = parser.add_argument_group("transport")
    transport.add_argument(
        "--transport",
        choices=("stdio", "http"),
        default="stdio",
        help="the standard streams, for one client that starts this command (default); or streamable HTTP",
    )
    transport.add_argument("--host", default="127.0.0.1", metavar="HOST", help="where HTTP is served; 127.0.0.1")
    transport.add_argument("--port", type=int, default=8000, metavar="PORT", help="where HTTP is served; 8000")
    transport.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        dest="allowed_hosts",
        help="a name under which other machines may reach it, which any --host but this machine's own needs; there is "
        "no authentication",
    )
    shared.add_model_arguments(parser)
    # answers are written as `ibllm ask` writes by default
    parser.set_defaults(cache=None, cache_index=None, quantize=None)


def run(options: argparse.Namespace) -> int:
    """Serve until the client leaves, or for good."""
    try:
        with interrupted_at_once():
            from ibllm_mcp import LazyToolbox, MediaServer, serve_http, serve_stdio
    except MissingExtraError as error:
        raise MissingExtraError("ibllm mcp", "mcp", error.extra) from error
    options.roots = options.roots or []
    server = MediaServer(
        LazyToolbox(lambda: _load(options), _close),
        roots=options.roots,
        has_library=options.library is not None,
        read_only=options.read_only,
        allow_fetch=options.allow_fetch,
    )
    with _logs_on_stderr(), server:
        _say_what_is_served(options)
        if options.transport == "stdio":
            with interrupted_at_once():  # the thread that reads stdin would have the process wait for the next line
                serve_stdio(server)
        else:
            serve_http(server, host=options.host, port=options.port, allowed_hosts=options.allowed_hosts)
    return 0


def _load(options: argparse.Namespace) -> "Toolbox":
    assistant = shared.load_assistant(options)
    library = None
    if options.library is not None:
        library = shared.open_library(
            options,
            embedder=assistant.embedder,
            captioner=assistant,
            limits=assistant.access.limits,
            create=not options.read_only,
        )
    from ibllm_tools.toolbox import Toolbox  # not before a wrong model is refused: it brings torch

    logging.getLogger(__name__).info("the model %s is loaded", assistant.name)
    return Toolbox(assistant, library)


def _close(toolbox: "Toolbox") -> None:
    if toolbox.library is not None:
        toolbox.library.close()
    toolbox.assistant.close()


@contextmanager
def _logs_on_stderr() -> Iterator[None]:
    """Those of the server, the SDK and uvicorn, and what is served."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("ibllm mcp: %(levelname)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in (__name__, "ibllm_mcp", "mcp", "uvicorn")]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
            logger.setLevel(logging.NOTSET)


def _say_what_is_served(options: argparse.Namespace) -> None:
    logger = logging.getLogger(__name__)
    if options.roots:
        logger.info("serving files below %s", ", ".join(options.roots))
    else:
        logger.warning("serving no files: give --root DIR for the folders that agents may name files in")
    logger.info("serving %s", "no library" if options.library is None else f"the library {options.library}")
    if options.allowed_hosts:
        logger.warning("serving everyone who reaches %s, without authentication", options.host)
