"""Fetching an attachment from the web: http and https, public addresses only, bounded in bytes and time."""

import ipaddress
import socket
import time
import urllib.error
import urllib.request
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection

from ibllm_tools.errors import AttachmentAccessError, AttachmentNotFoundError, LimitExceededError
from ibllm_tools.media.limits import DEFAULT_LIMITS, Limits
from ibllm_tools.media.source import one_line

CHUNK_BYTES = 1 << 16
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
    deadline = time.monotonic() + limits.max_fetch_seconds
    request = urllib.request.Request(url, headers={"User-Agent": "ibllm-tools"})
    try:
        with _opener().open(request, timeout=limits.max_fetch_seconds) as response:
            return _read(response, label, deadline, limits)
    except urllib.error.HTTPError as error:
        error.close()
        kind = AttachmentNotFoundError if error.code in (404, 410) else AttachmentAccessError
        raise kind(f"{label}: the server answers {error.code}, expected a document; {CALM_REMEDY}") from error
    except (OSError, HTTPException, ValueError) as error:
        reason = one_line(getattr(error, "reason", error))
        raise AttachmentAccessError(f"{label}: cannot be fetched ({reason}); {CALM_REMEDY}") from error


def _read(response: HTTPResponse, label: str, deadline: float, limits: Limits) -> bytes:
    content = bytearray()
    while chunk := response.read1(CHUNK_BYTES):
        content += chunk
        if len(content) > limits.max_bytes:
            raise LimitExceededError(
                f"{label}: more than the limit of {limits.max_bytes:,} bytes; pass less or raise Limits.max_bytes"
            )
        if time.monotonic() > deadline:
            raise AttachmentAccessError(
                f"{label}: not finished after {limits.max_fetch_seconds:g} s; {CALM_REMEDY}, or raise "
                "Limits.max_fetch_seconds"
            )
    return bytes(content)


def _opener() -> urllib.request.OpenerDirector:
    """urllib without its handlers for files, FTP, data URIs and proxies."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        _PublicHttp(),
        _PublicHttps(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


class _PublicHttpConnection(HTTPConnection):
    def connect(self) -> None:
        self.sock = connect_public(self.host, self.port, self.timeout)


class _PublicHttpsConnection(HTTPSConnection):
    def connect(self) -> None:
        plain = connect_public(self.host, self.port, self.timeout)
        self.sock = self._context.wrap_socket(plain, server_hostname=self.host)  # type: ignore[attr-defined]


class _PublicHttp(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> HTTPResponse:
        return self.do_open(_PublicHttpConnection, req)


class _PublicHttps(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> HTTPResponse:
        return self.do_open(_PublicHttpsConnection, req)


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
    """Whether an IP address is reachable from the whole internet: not loopback, private, link-local or multicast."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    parsed = getattr(parsed, "ipv4_mapped", None) or parsed
    return parsed.is_global and not parsed.is_multicast
