"""Pictures behind addresses that requests name, fetched so that nobody reaches this network's own machines through it.

Role: http(s) address -> bytes. Names are resolved once, every address found must be a public one, and the connection is
made to the address that was checked; redirects go through the same check. Size and total time are bounded. The host's
own fetcher does none of this and is never called.
"""

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
from urllib.parse import SplitResult, urljoin, urlsplit

from open_clip_idplugin.retrieval.knn_request import BadRequest

_MOST_REDIRECTS = 3
_SECONDS = 10.0  # for everything together
_BLOCK = 1 << 16
_REDIRECTS = (301, 302, 303, 307, 308)
_LONGEST_ADDRESS = 2000  # characters
# Public by number, but answered by the machine's own provider.
_PROVIDERS = frozenset({ipaddress.ip_address("168.63.129.16")})
_EMBEDDING_V4 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("2002::/16"))


def fetch_picture(url: str, most_bytes: int) -> bytes:
    """The body behind an address; raises BadRequest, without telling what is there, when it may not or cannot be read."""
    for _ in range(_MOST_REDIRECTS + 1):
        target = _checked(url)
        try:
            status, location, body = _get(target, most_bytes)
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
    """Whether an IP address belongs to the public internet, also when it wraps an IPv4 address."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    inner = getattr(ip, "ipv4_mapped", None)
    if inner is not None:
        ip = inner
    if any(ip in network for network in _EMBEDDING_V4) or ip in _PROVIDERS:
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


def _checked(url: str) -> SplitResult:
    try:
        parts = urlsplit(url) if len(url) <= _LONGEST_ADDRESS else urlsplit("")
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
        usable = usable and parts.port != 0 and not any(ord(letter) <= 32 or ord(letter) > 126 for letter in url)
    except ValueError:
        usable = False
    if not usable:
        raise BadRequest("'image_url' must be an http or https address, without user name and without spaces")
    return parts


def _get(target: SplitResult, most_bytes: int) -> tuple[int, str | None, bytes]:
    """(status, location, body of at most `most_bytes` + 1) of one request."""
    host = str(target.hostname)
    port = target.port or (443 if target.scheme == "https" else 80)
    connection = http.client.HTTPConnection(host, port, timeout=_SECONDS)
    plain = socket.create_connection((_public_address(host, port), port), timeout=_SECONDS)
    # A timeout counts one read only; a server that sends a byte a second would hold the thread for hours.
    end = threading.Timer(_SECONDS, _shut, (plain,))
    end.daemon = True
    end.start()
    try:
        connection.sock = plain
        if target.scheme == "https":
            connection.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=host)
            end.cancel()
            end = threading.Timer(_SECONDS, _shut, (connection.sock,))
            end.daemon = True
            end.start()
        path = (target.path or "/") + (f"?{target.query}" if target.query else "")
        connection.request("GET", path, headers={"Accept": "image/*", "Accept-Encoding": "identity"})
        response = connection.getresponse()
        return response.status, response.getheader("Location"), _read(response, most_bytes)
    finally:
        end.cancel()
        connection.close()
        plain.close()


def _read(response: http.client.HTTPResponse, most_bytes: int) -> bytes:
    body = bytearray()
    while len(body) <= most_bytes and (block := response.read1(_BLOCK)):
        body += block
    return bytes(body)


def _public_address(host: str, port: int) -> str:
    """The address to connect to; every address of the name must be public, so that none can be picked by chance."""
    found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if not found or not all(map(is_public, found)):
        raise BadRequest("'image_url' does not lead to the public internet: send the picture itself in 'image'")
    return found[0]


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
