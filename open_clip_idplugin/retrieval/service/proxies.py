"""Reverse proxies: whom a request comes from and by which scheme, told by those whose word is taken.

Role: WSGI application + addresses of proxies -> the same application, which sees the client's address and scheme instead of the
proxy's. The headers X-Forwarded-For and X-Forwarded-Proto of anybody else are left unread: whoever reaches the port could
write them.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Any

from open_clip_idplugin.errors import IdClipError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class TrustedProxies:
    """The application behind its proxies."""

    def __init__(self, app: Any, networks: Sequence[Network]) -> None:
        self._app = app
        self._networks = networks

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """WSGI."""
        address = environ.get("REMOTE_ADDR", "")
        if self._trusts(address):
            # Each proxy adds whom it was asked by at the end: the last one that is no proxy of ours is the client.
            for told in reversed(environ.get("HTTP_X_FORWARDED_FOR", "").split(",")):
                if not self._trusts(address) or not _is_address(told.strip()):
                    break
                address = told.strip()
            environ["REMOTE_ADDR"] = address
            scheme = environ.get("HTTP_X_FORWARDED_PROTO", "").rpartition(",")[2].strip().lower()
            if scheme in ("http", "https"):
                environ["wsgi.url_scheme"] = scheme
        answer: Iterable[bytes] = self._app(environ, start_response)
        return answer

    def _trusts(self, address: str) -> bool:
        return _is_address(address) and any(ipaddress.ip_address(address) in network for network in self._networks)


def parse_networks(listed: str | None) -> tuple[Network, ...]:
    """Addresses and networks ("10.0.0.0/8"), separated by commas; raises IdClipError for what is neither."""
    entries = [entry.strip() for entry in (listed or "").split(",") if entry.strip()]
    try:
        return tuple(ipaddress.ip_network(entry) for entry in entries)
    except ValueError as error:
        raise IdClipError(f"--trusted_proxies takes addresses and networks, separated by commas: {error}") from None


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
