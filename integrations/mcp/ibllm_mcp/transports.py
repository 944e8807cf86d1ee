"""How clients reach a server: over the standard streams of its process, or over HTTP."""

import logging
import socket
from collections.abc import Sequence
from functools import partial

import anyio
import uvicorn
from mcp.server.transport_security import TransportSecuritySettings

from ibllm_mcp.server import MediaServer
from ibllm_tools.errors import InvalidRequestError, one_line

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
GRACE_SECONDS = 2

logger = logging.getLogger(__name__)


def serve_stdio(server: MediaServer) -> None:
    """Serve one client over stdin and stdout, until it closes them. What libraries print goes to stderr."""
    server.run("stdio")


def serve_http(
    server: MediaServer, *, host: str = "127.0.0.1", port: int = 8000, allowed_hosts: Sequence[str] = ()
) -> None:
    """Serve clients over streamable HTTP at ``http://host:port/mcp``, until the process is interrupted.

    Requests are answered only where their Host header is an allowed one, and so is their Origin if they have one: a
    page in somebody's browser cannot reach the server under a name of its own.

    Args:
        server: what is served.
        host: address that it listens at; without ``allowed_hosts`` one of this machine alone.
        port: 0 for any that is free.
        allowed_hosts: names under which clients elsewhere reach it. There is no authentication: whoever can send
            requests can read the library.

    Raises:
        InvalidRequestError: an address that others can reach, without ``allowed_hosts``; or that cannot be used.
    """
    running = http_server(server, host=host, allowed_hosts=allowed_hosts)
    with listening_socket(host, port) as listening:
        logger.info("serving http://%s:%d/mcp", f"[{host}]" if ":" in host else host, listening.getsockname()[1])
        anyio.run(partial(running.serve, sockets=[listening]))


def http_server(server: MediaServer, *, host: str, allowed_hosts: Sequence[str] = ()) -> uvicorn.Server:
    """What :func:`serve_http` runs on its socket, for those who have an event loop of their own."""
    security = transport_security(host, allowed_hosts)
    return uvicorn.Server(
        uvicorn.Config(
            server.streamable_http_app(transport_security=security, host=host),
            log_config=None,  # uvicorn's own writes to stdout
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
    )


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 is any that is free.

    Raises:
        InvalidRequestError: the address is taken, or is none.
    """
    if not 0 <= port < 1 << 16:
        raise InvalidRequestError(f"port {port}, expected 0 to {(1 << 16) - 1}; choose another")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server((str(address[0]), port), family=family)
    except (OSError, UnicodeError) as error:
        raise InvalidRequestError(
            f"host {one_line(host)}, port {port}: cannot be listened at ({one_line(error)}); choose another"
        ) from error


def transport_security(host: str, allowed_hosts: Sequence[str] = ()) -> TransportSecuritySettings:
    """Which Host and Origin headers are answered.

    Raises:
        InvalidRequestError: as :func:`serve_http`.
    """
    for name in allowed_hosts:
        if not name or "/" in name:
            raise InvalidRequestError(
                f"allowed host {one_line(name)!r}, expected what a Host header holds, such as media.example or "
                "media.example:8000; leave out scheme and path"
            )
    local = host in (*LOOPBACK, "::1")
    if not local and not allowed_hosts:
        raise InvalidRequestError(
            f"host {host}: others could reach it, and there is no authentication; name those under which "
            "they may (allowed_hosts, --allow-host), or listen at 127.0.0.1"
        )
    hosts = [form for name in (*LOOPBACK, *allowed_hosts) for form in (name, f"{name}:*")]
    origins = [f"{scheme}://{host}" for scheme in ("http", "https") for host in hosts]
    return TransportSecuritySettings(allowed_hosts=hosts, allowed_origins=origins)
