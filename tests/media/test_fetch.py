import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ibllm_tools.errors import AttachmentAccessError, AttachmentNotFoundError, LimitExceededError
from ibllm_tools.media import fetch as fetching
from ibllm_tools.media.fetch import fetch, is_public
from ibllm_tools.media.limits import Limits


class Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        places = {"/to-file": "file:///etc/hostname", "/loop": "/loop", "/moved": "/sound.wav"}
        self.send_response(302 if self.path in places else 200 if self.path in ("/sound.wav", "/drip") else 404)
        if self.path in places:
            self.send_header("Location", places[self.path])
        self.end_headers()
        if self.path == "/sound.wav":
            self.wfile.write(b"RIFF" * 1000)
        with suppress(ConnectionError):
            while self.path == "/moved":  # a redirect whose own content never ends
                self.wfile.write(bytes(1 << 16))

        with suppress(ConnectionError):
            for _ in range(100 if self.path == "/drip" else 0):  # within every read's timeout, for ever in all
                self.wfile.write(b".")
                time.sleep(0.05)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def public_site(site: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The local site, as if its address were a public one."""
    monkeypatch.setattr(fetching, "is_public", lambda address: True)
    return site


def test_fetches_a_document(public_site: str) -> None:
    assert fetch(f"{public_site}/sound.wav") == b"RIFF" * 1000


def test_does_not_read_what_comes_with_a_redirect(public_site: str) -> None:
    assert fetch(f"{public_site}/moved") == b"RIFF" * 1000


def test_stops_at_the_size_limit(public_site: str) -> None:
    with pytest.raises(LimitExceededError, match=r"more than the limit of 100 bytes"):
        fetch(f"{public_site}/sound.wav", Limits(max_bytes=100))


def test_a_server_that_drips_is_cut_off_in_time(public_site: str) -> None:
    began = time.monotonic()
    with pytest.raises(AttachmentAccessError, match=r"not finished after 0\.3 s"):
        fetch(f"{public_site}/drip", Limits(max_fetch_seconds=0.3))
    assert time.monotonic() - began < 4


def test_a_missing_page_is_not_found(public_site: str) -> None:
    with pytest.raises(AttachmentNotFoundError, match="answers 404"):
        fetch(f"{public_site}/gone")


def test_does_not_follow_into_files_or_in_circles(public_site: str) -> None:
    with pytest.raises(AttachmentAccessError, match="answers 302"):
        fetch(f"{public_site}/to-file")
    with pytest.raises(AttachmentAccessError):
        fetch(f"{public_site}/loop")


def test_the_own_network_is_out_of_reach(site: str) -> None:
    with pytest.raises(AttachmentAccessError, match=r"127\.0\.0\.1, inside the own network"):
        fetch(f"{site}/sound.wav")


def test_a_name_that_leads_home_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    home = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.7", 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: home)
    with pytest.raises(AttachmentAccessError, match=r"example\.com: leads to 10\.0\.0\.7"):
        fetch("http://example.com/bell.wav")


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1", "100.64.0.1"],
)
def test_private_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "::1",
        "fe80::1%eth0",
        "::ffff:127.0.0.1",
        "fd00::1",
        "fec0::1",
        "ff02::1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
    ],
)
def test_private_ipv6_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)


def test_public_addresses_are() -> None:
    assert is_public("93.184.216.34")
    assert is_public("2606:2800:220:1:248:1893:25c8:1946")
    assert is_public("64:ff9b::5db8:d822")  # 93.184.216.34, for hosts without IPv4
