"""Fetching without SSRF: http(s) address that a request names -> bytes of a picture.

Nobody reaches this network's own machines through it. Names are resolved once, every address found must be a public one, and the
connection is made to the address that was checked; redirects go through the same check. Size is bounded, and time by one deadline
over all hops, names and handshakes included. The host's own fetcher does none of this and is never called.
"""

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from urllib.parse import SplitResult, urljoin, urlsplit

from clip_retrieval.clip_back import DOWNLOAD_TIME

from open_clip_idplugin.retrieval.ranking.knn_request import BadRequest

_MOST_REDIRECTS = 3
_SECONDS = 10.0  # for everything together
_BLOCK = 1 << 16
_REDIRECTS = (301, 302, 303, 307, 308)
_LONGEST_ADDRESS = 2000  # characters
# IANA's registries of special purposes, whatever the version of Python's own copy; and the last is answered by a provider of
# virtual machines.
_SPECIAL_V4 = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32")))
# Of IPv6 only this block is handed out as global unicast (RFC 4291); what stands below lies in it and leads elsewhere: protocol
# assignments with Teredo, documentation, 6to4.
_UNICAST_V6 = ipaddress.ip_network("2000::/3")
_SPECIAL_V6 = tuple(map(ipaddress.ip_network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))


@DOWNLOAD_TIME.time()
def fetch_picture(url: str, most_bytes: int) -> bytes:
    """The body behind an address; raises BadRequest, without telling what is there, when it may not or cannot be read."""
    end = time.monotonic() + _SECONDS
    for _ in range(_MOST_REDIRECTS + 1):
        target = _require_fetchable(url)
        try:
            status, location, body = _get_once(target, most_bytes, end)
        except BadRequest:
            raise
        except (OSError, http.client.HTTPException, ValueError):
            raise BadRequest("no picture could be fetched from 'image_url'") from None
        if status in _REDIRECTS and location:
            url = urljoin(url, location)
            continue
        if status != 200:
            raise BadRequest("no picture could be fetched from 'image_url'")
        if len(body) > most_bytes:
            raise BadRequest(f"the picture behind 'image_url' is larger than {most_bytes} bytes")
        return body
    raise BadRequest("'image_url' redirects too often")


def is_public(address: str) -> bool:
    """Whether an IP address is a global unicast one of the public internet, also when it is an IPv4 address in IPv6's clothes."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    ip = getattr(ip, "ipv4_mapped", None) or ip
    if not ip.is_global or ip.is_multicast or ip.is_reserved or ip.is_unspecified:
        return False
    if ip.version == 6:
        return ip in _UNICAST_V6 and not any(ip in network for network in _SPECIAL_V6)
    return not any(ip in network for network in _SPECIAL_V4)


def _require_fetchable(url: str) -> SplitResult:
    try:
        parts = urlsplit(url) if len(url) <= _LONGEST_ADDRESS else urlsplit("")
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
        usable = usable and parts.port != 0 and not any(ord(letter) <= 32 or ord(letter) > 126 for letter in url)
    except ValueError:
        usable = False
    if not usable:
        raise BadRequest("'image_url' must be an http or https address, without user name and without spaces")
    return parts


def _get_once(target: SplitResult, most_bytes: int, end: float) -> tuple[int, str | None, bytes]:
    """(status, location, body of at most `most_bytes` + 1) of one request, which is over at `end`."""
    host = str(target.hostname)
    port = target.port or (443 if target.scheme == "https" else 80)
    address = _public_address(host, port, end)
    connection = http.client.HTTPConnection(host, port)
    plain = socket.create_connection((address, port), timeout=seconds_left(end))
    connection.sock = plain
    if target.scheme == "https":
        # The handshake comes later, when it can be interrupted: this takes the socket away from `plain`.
        secure = ssl.create_default_context()
        connection.sock = secure.wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False)
    with shut_at(connection.sock, end), contextlib.closing(connection):
        if isinstance(connection.sock, ssl.SSLSocket):
            connection.sock.do_handshake()
        path = (target.path or "/") + (f"?{target.query}" if target.query else "")
        connection.request("GET", path, headers={"Accept": "image/*", "Accept-Encoding": "identity"})
        response = connection.getresponse()
        return response.status, response.getheader("Location"), read_bounded(response, most_bytes)


@contextlib.contextmanager
def shut_at(connection: socket.socket, end: float) -> Iterator[None]:
    """Inside the block the connection is shut at `end` (of `time.monotonic`), whatever is being read or written then.

    A timeout counts one read only; a server that sends a byte a second would hold the thread for hours.
    """
    timer = threading.Timer(seconds_left(end), _interrupt, (connection,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def seconds_left(end: float) -> float:
    """Seconds until `end`; raises TimeoutError when there are none."""
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def read_bounded(response: http.client.HTTPResponse, most_bytes: int) -> bytes:
    """The body of an answer, at most `most_bytes` of it and what came with the last of them."""
    body = bytearray()
    while len(body) <= most_bytes and (block := response.read1(_BLOCK)):
        body += block
    return bytes(body)


def _public_address(host: str, port: int, end: float) -> str:
    """The address to connect to; every address of the name must be public, so that none can be picked by chance."""
    found = _addresses(host, port, end)
    if not found or not all(map(is_public, found)):
        raise BadRequest("'image_url' does not lead to the public internet: send the picture itself in 'image'")
    return found[0]


def _addresses(host: str, port: int, end: float) -> list[str]:
    """All addresses of a name; in a thread of its own, because the system's resolver takes no deadline."""
    found: list[str] = []
    errors: list[OSError] = []

    def resolve() -> None:
        try:
            found.extend(str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            errors.append(OSError(str(error)))

    thread = threading.Thread(target=resolve, name="resolver", daemon=True)
    thread.start()
    thread.join(seconds_left(end))
    if thread.is_alive():
        raise TimeoutError
    if errors:
        raise errors[0]
    return found


def _interrupt(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
