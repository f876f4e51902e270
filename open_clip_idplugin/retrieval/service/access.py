"""Access control: the token, the names a service is called by, the origin of a request, proxies -> a closed Flask application.

Without a token everybody who reaches the port may ask, which is why `serve` wants one for every address but this machine's own.
Also here: response headers, and error mapping: every error becomes JSON with one sentence, because an error is an answer too.
"""

import ipaddress
import logging
import os
import secrets
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import flask
from werkzeug.exceptions import HTTPException

from open_clip_idplugin.errors import Busy, IdClipError
from open_clip_idplugin.retrieval.service.login import Login

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
TOKEN_VARIABLE = "IDCLIP_TOKEN"
SHORTEST_TOKEN = 16  # characters
_OPEN = ("/healthz", "/login")  # answered without token
_OPEN_FILES = "/page/"  # of the page itself: the same for everybody
_OWN_PAGES_ONLY = "/people/"  # never for pages of other origins, whatever is allowed
_SAFE = ("GET", "HEAD", "OPTIONS")
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
CONTENT_RULES = (
    "default-src 'self'; img-src 'self' data: blob:; script-src 'self'; style-src 'self'; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": CONTENT_RULES,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: under that, browsers send the forms of this very page with "Origin: null".
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Access:
    """token: None lets everybody in. host_names: names in the Host header that are answered; None: every name.

    allow_cors: pages of other origins may search. read_only_people: nobody is enrolled, renamed or forgotten through the service.
    trusted_proxies: whose word is taken for a client's address and scheme.
    """

    token: str | None = None
    host_names: frozenset[str] | None = field(default_factory=lambda: frozenset(_LOCAL_NAMES))
    allow_cors: bool = False
    read_only_people: bool = False
    trusted_proxies: tuple[Network, ...] = ()

    def __post_init__(self) -> None:
        if self.token is not None and len(self.token) < SHORTEST_TOKEN:
            raise IdClipError(
                f"the token has fewer than {SHORTEST_TOKEN} characters, which can be guessed: make a longer one, for "
                "example with `openssl rand -hex 24`"
            )

    @property
    def may_edit_people(self) -> bool:
        """Whether requests may change the gallery: only with a token, or where this machine alone gets through."""
        private = self.host_names is not None and all(map(is_local, self.host_names))
        return not self.read_only_people and (self.token is not None or private)


def is_local(host: str) -> bool:
    """Whether only this machine reaches a service that listens on `host`."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_token(token_file: str | None) -> str | None:
    """The token of a file, or else of the environment variable IDCLIP_TOKEN; None where there is neither.

    Raises:
        IdClipError: the file cannot be read, or others can read it.
    """
    if token_file is None:
        return os.environ.get(TOKEN_VARIABLE, "").strip() or None
    path = Path(token_file)
    try:
        mode, token = path.stat().st_mode, path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        raise IdClipError(f"--token_file: '{token_file}' cannot be read as text") from None
    if stat.S_IMODE(mode) & 0o077:
        raise IdClipError(f"--token_file: others can read '{token_file}': run `chmod 600` on it, and change the token")
    if not token:
        raise IdClipError(f"--token_file: '{token_file}' is empty: put a token into it, e.g. `openssl rand -hex 24`")
    return token


def close(app: flask.Flask, access: Access) -> None:
    """Put checks before every request, headers on every answer, and sentences in place of error pages."""
    login = Login(access.token) if access.token is not None else None
    app.before_request(lambda: _refusal(access, login))
    app.after_request(lambda response: _with_headers(response, access))
    app.register_error_handler(HTTPException, _answer_http_error)
    app.register_error_handler(Busy, _answer_busy)
    app.register_error_handler(Exception, _answer_defect)
    if login is not None:
        login.add_to(app)
    if access.trusted_proxies:
        app.wsgi_app = TrustedProxies(app.wsgi_app, access.trusted_proxies)  # type: ignore[method-assign]


def _refusal(access: Access, login: Login | None) -> Any:
    """An answer that refuses the request at hand, or None."""
    request = flask.request
    name = _split_address(f"//{request.host}").hostname or ""
    if access.host_names is not None and name.lower() not in access.host_names:
        return {"message": "this service is not called by that name: see --host_names"}, 403
    closed = not access.allow_cors or request.path.startswith(_OWN_PAGES_ONLY)
    if request.method not in _SAFE and closed and _is_cross_origin():
        return {"message": "requests from pages of another origin are not answered"}, 403
    is_open = request.path in _OPEN or request.path.startswith(_OPEN_FILES)
    refused = None if login is None or is_open else login.refusal()
    if refused is not None and refused.status_code == 401 and request.method == "GET" and request.path == "/":
        return flask.redirect("/login", 303)
    return refused


def _is_cross_origin() -> bool:
    """Whether a browser says that a page of another origin sends this request."""
    headers = flask.request.headers
    if headers.get("Sec-Fetch-Site", "same-origin") in ("cross-site", "same-site"):
        return True
    origin = headers.get("Origin")
    return origin is not None and (_split_address(origin).netloc or None) != flask.request.host


def _split_address(address: str) -> SplitResult:
    """The parts of an address; those of none where it is malformed, as "http://[" is."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


def _with_headers(response: flask.Response, access: Access) -> flask.Response:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.setdefault("Cross-Origin-Resource-Policy", "cross-origin" if access.allow_cors else "same-origin")
    response.headers.setdefault("Cache-Control", "no-store")  # answers hold people's pictures and names
    return response


class TrustedProxies:
    """The application behind its proxies: it sees the client's address and scheme instead of the proxy's.

    X-Forwarded-For and X-Forwarded-Proto of anybody else are left unread: whoever reaches the port could write them.
    """

    def __init__(self, app: Any, networks: Sequence[Network]) -> None:
        self._app = app
        self._networks = networks

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """WSGI."""
        address = environ.get("REMOTE_ADDR", "")
        if self._trusts(address):
            # Each proxy adds whom it was asked by at the end: the last one that is no proxy of ours is the client.
            for named in reversed(environ.get("HTTP_X_FORWARDED_FOR", "").split(",")):
                if not self._trusts(address) or not _is_address(named.strip()):
                    break
                address = named.strip()
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


def _answer_http_error(error: HTTPException) -> Any:
    if error.code is not None and error.code < 400:
        return error
    answer = flask.jsonify(message=_SENTENCES.get(error.code or 500, error.name.lower()))
    answer.status_code = error.code or 500
    for name, value in error.get_headers():
        if name in ("Allow", "Retry-After"):
            answer.headers[name] = value
    return answer


def _answer_busy(error: Busy) -> Any:
    return {"message": str(error)}, 503, {"Retry-After": "5"}


_SENTENCES = {
    404: "there is nothing at this address",
    405: "this address takes no requests of that method",
    413: "the request is too large",
    415: "send JSON, and say so in the header: Content-Type: application/json",
}


def _answer_defect(error: Exception) -> Any:
    """A defect of ours: an id for the client and the log; no message, which may hold a path or an embedding."""
    number = secrets.token_hex(6)
    place, trace = "", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        place = f"{Path(code.co_filename).name}:{trace.tb_lineno} {code.co_name}"
        trace = trace.tb_next
    _log.error("defect %s: %s at %s", number, type(error).__name__, place)
    return {"message": f"the service failed at this request; its log knows it as {number}"}, 500
