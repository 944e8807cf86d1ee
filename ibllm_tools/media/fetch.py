"""Fetching an attachment from the web: http and https, public addresses only, bounded in bytes and time."""

import ipaddress
import socket
import threading
import urllib.error
import urllib.request
from contextlib import suppress
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any

from ibllm_tools.errors import AttachmentAccessError, AttachmentNotFoundError, LimitExceededError, one_line
from ibllm_tools.media.limits import DEFAULT_LIMITS, Limits

CHUNK_BYTES = 1 << 16
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
CALM_REMEDY = "download the file yourself and pass its path"


def fetch(url: str, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """The content behind a URL.

    Redirects are followed to http and https only, and every address is checked when its connection is opened, so that a
    name cannot lead into the own network. Proxies from the environment are not used, as they would hide the address.

    Raises:
        AttachmentAccessError: another scheme, a private address, or no answer in time.
        AttachmentNotFoundError: the server has no such document.
        LimitExceededError: more than ``limits.max_bytes``.
    """
    label = one_line(url)
    request = urllib.request.Request(url, headers={"User-Agent": "ibllm-tools"})
    watch = _Watch(limits.max_fetch_seconds)
    try:
        with watch, _opener(watch).open(request, timeout=limits.max_fetch_seconds) as response:
            content = _read(response, label, limits)
        if not watch.expired:
            return content
        reason = "cut off"
    except urllib.error.HTTPError as error:
        error.close()
        kind = AttachmentNotFoundError if error.code in (404, 410) else AttachmentAccessError
        raise kind(f"{label}: the server answers {error.code}, expected a document; {CALM_REMEDY}") from error
    except (OSError, HTTPException, ValueError) as error:
        reason = one_line(getattr(error, "reason", error))
        if not watch.expired:
            raise AttachmentAccessError(f"{label}: cannot be fetched ({reason}); {CALM_REMEDY}") from error
    raise AttachmentAccessError(
        f"{label}: not finished after {limits.max_fetch_seconds:g} s ({reason}); {CALM_REMEDY}, or raise "
        "Limits.max_fetch_seconds"
    )


class _Watch:
    """Ends all connections of a fetch after some seconds.

    A timeout of a socket holds for each read anew, so a server that sends a byte now and then would never meet it.
    """

    def __init__(self, seconds: float) -> None:
        self.expired = False
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def add(self, connection: socket.socket) -> None:
        self._sockets.append(connection)
        if self.expired:
            self._end()

    def _end(self) -> None:
        self.expired = True
        for connection in self._sockets:
            with suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)  # TLS sockets too, without their goodbye

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()


def _read(response: HTTPResponse, label: str, limits: Limits) -> bytes:
    content = bytearray()
    while chunk := response.read1(CHUNK_BYTES):
        content += chunk
        if len(content) > limits.max_bytes:
            raise LimitExceededError(
                f"{label}: more than the limit of {limits.max_bytes:,} bytes; pass less or raise Limits.max_bytes"
            )
    return bytes(content)


def _opener(watch: _Watch) -> urllib.request.OpenerDirector:
    """urllib without its handlers for files, FTP, data URIs and proxies."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        _PublicHttp(watch),
        _PublicHttps(watch),
        _Redirects(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


class _Redirects(urllib.request.HTTPRedirectHandler):
    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        fp.close()  # urllib would read all that comes with the redirect, whatever its size
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class _PublicHttpConnection(HTTPConnection):
    def __init__(self, host: str, *, watch: _Watch, **options: Any) -> None:
        super().__init__(host, **options)
        self.watch = watch

    def connect(self) -> None:
        self.sock = connect_public(self.host, self.port, self.timeout)
        self.watch.add(self.sock)


class _PublicHttpsConnection(HTTPSConnection):
    def __init__(self, host: str, *, watch: _Watch, **options: Any) -> None:
        super().__init__(host, **options)
        self.watch = watch

    def connect(self) -> None:
        plain = connect_public(self.host, self.port, self.timeout)
        context = self._context  # type: ignore[attr-defined]  # typeshed does not know it
        self.sock = context.wrap_socket(plain, server_hostname=self.host, do_handshake_on_connect=False)
        self.watch.add(self.sock)
        self.sock.do_handshake()


class _PublicHttp(urllib.request.HTTPHandler):
    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self.watch = watch

    def http_open(self, req: urllib.request.Request) -> HTTPResponse:
        return self.do_open(partial(_PublicHttpConnection, watch=self.watch), req)


class _PublicHttps(urllib.request.HTTPSHandler):
    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self.watch = watch

    def https_open(self, req: urllib.request.Request) -> HTTPResponse:
        return self.do_open(partial(_PublicHttpsConnection, watch=self.watch), req)


def connect_public(host: str, port: int, timeout: float | None) -> socket.socket:
    """A connection to the host, whose addresses must all be public; connects to the very address that was checked."""
    addresses = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    for address in addresses:
        if not is_public(address):
            raise AttachmentAccessError(
                f"{one_line(host)}: leads to {address}, inside the own network, expected a public one; {CALM_REMEDY}"
            )
    for address in addresses[:-1]:
        with suppress(OSError):  # an IPv6 address without a route, for instance
            return socket.create_connection((address, port), timeout)
    return socket.create_connection((addresses[-1], port), timeout)


def is_public(address: str) -> bool:
    """Whether an IP address is reachable from the whole internet: not loopback, private, link-local or multicast.

    An IPv6 address that carries an IPv4 one is judged by that one.
    """
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        carried = parsed.ipv4_mapped or parsed.sixtofour
        if parsed in NAT64:
            carried = ipaddress.IPv4Address(parsed.packed[-4:])
        if carried is None:
            return parsed in GLOBAL_UNICAST and parsed.is_global
        parsed = carried
    return parsed.is_global and not parsed.is_multicast
