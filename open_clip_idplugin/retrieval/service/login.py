"""Session login and rate limit: the token, in a header or once in a form -> a signed cookie; wrong tokens -> a pause.

The form is at `/login`, and the way out at `/logout`; a request that does not know the token gets an answer that refuses it.
"""

import hashlib
import hmac
import ipaddress
import secrets
import threading
import time
from typing import Any

import flask
from cachetools import TTLCache
from itsdangerous import BadSignature, TimestampSigner

TRIES = 10  # wrong tokens of one address
PAUSE_SECONDS = 300  # from the first of them
_MOST_ADDRESSES = 10_000
COOKIE = "idclip_session"
_COOKIE_SECONDS = 12 * 3600
_FORM = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Log in</title><link rel="stylesheet" href="page/page.css"><link rel="icon" href="page/icon.svg"></head>
<body class="login"><main><h1>Log in</h1><p role="alert" class="error">{message}</p>
<form method="post" action="login"><input name="username" value="idclip" autocomplete="username" hidden>
<p><label>Token <input name="token" type="password" required autofocus
autocomplete="current-password"></label></p><p><button class="primary">Log in</button></p></form></main></body></html>
"""


class Login:
    """Who knows the token of a service, by header or by cookie; safe to use from several threads.

    Cookies are signed with a key of this process and the token, so that none outlives either; which ones were logged out is
    kept until they expire.
    """

    def __init__(self, token: str) -> None:
        self._token = token
        # The key is an HMAC of the token and the salt.
        self._signer = TimestampSigner(
            token, salt=secrets.token_bytes(32), key_derivation="hmac", digest_method=hashlib.sha256
        )
        self._limit = LoginLimit()
        self._lock = threading.Lock()
        self._ended: dict[str, float] = {}  # session -> time at which its cookie has expired

    def add_to(self, app: flask.Flask) -> None:
        """Serve the form, and the way out."""
        app.add_url_rule("/login", "login", self._login, methods=["GET", "POST"])
        app.add_url_rule("/logout", "logout", self._logout, methods=["POST"])

    def refusal(self) -> flask.Response | None:
        """An answer for a request that does not know the token; None for one that does.

        Wrong tokens in headers count as those of the form do, and after too many of them an address may not try at all.
        """
        if self._session() is not None:
            return None
        request = flask.request
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            seconds = self._limit.seconds_to_wait(request.remote_addr)
            if seconds:
                answer = flask.jsonify(message=_sentence_of_pause(seconds))
                answer.status_code, answer.headers["Retry-After"] = 429, str(seconds)
                return answer
            if _equal_in_constant_time(given.strip(), self._token):
                return None
            self._limit.note_wrong(request.remote_addr)
        answer = flask.jsonify(message="this service needs its token: send it as 'Authorization: Bearer TOKEN'")
        answer.status_code, answer.headers["WWW-Authenticate"] = 401, "Bearer"
        return answer

    def _login(self) -> Any:
        """The form, and what it sends: a signed cookie, in which the token is not."""
        request = flask.request
        if request.method == "GET":
            return _FORM.format(message="")
        seconds = self._limit.seconds_to_wait(request.remote_addr)
        if seconds:
            return flask.make_response(
                _FORM.format(message=_sentence_of_pause(seconds)), 429, {"Retry-After": str(seconds)}
            )
        if not _equal_in_constant_time(request.form.get("token", "").strip(), self._token):
            self._limit.note_wrong(request.remote_addr)
            return flask.make_response(_FORM.format(message="That is not the token."), 401)
        answer = flask.redirect("/", 303)
        answer.set_cookie(
            COOKIE,
            self._signer.sign(secrets.token_hex(16)).decode(),
            max_age=_COOKIE_SECONDS,
            httponly=True,
            samesite="Strict",
            secure=request.is_secure,
        )
        return answer

    def _logout(self) -> Any:
        session = self._session()
        if session is not None:
            with self._lock:
                now = time.time()
                ended = {other: end for other, end in self._ended.items() if end > now}
                self._ended = ended | {session: now + _COOKIE_SECONDS}
        answer = flask.redirect("/login", 303)
        answer.delete_cookie(COOKIE, httponly=True, samesite="Strict")
        return answer

    def _session(self) -> str | None:
        """The session of the request's cookie; None where its signature is not ours, or it has expired or was logged out."""
        cookie = flask.request.cookies.get(COOKIE, "").encode(errors="replace")
        try:
            session = self._signer.unsign(cookie, max_age=_COOKIE_SECONDS - 1).decode()  # whole seconds, rounded down
        except BadSignature:
            return None
        with self._lock:
            return None if session in self._ended else session


class LoginLimit:
    """How often an address may try: a few wrong tokens, then a pause; safe to use from several threads.

    In memory, bounded, forgotten at a restart; the token's own length is what keeps guessing hopeless, this keeps it quiet
    and cheap.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # The package `limits` keeps every address (69 MB of 200,000) and looks at each of them at every wrong token (15 ms).
        self._wrong: TTLCache = TTLCache(_MOST_ADDRESSES, PAUSE_SECONDS, timer=time.monotonic)  # network -> times

    def seconds_to_wait(self, address: str | None) -> int:
        """0 where the address may try; else after how many seconds it may again."""
        with self._lock:
            times = self._wrong.get(_network(address), ())
            if len(times) < TRIES:
                return 0
            return max(int(times[0] + PAUSE_SECONDS - time.monotonic()), 0) + 1

    def note_wrong(self, address: str | None) -> None:
        """Count one wrong token."""
        with self._lock:
            self._wrong.setdefault(_network(address), []).append(time.monotonic())


def _network(address: str | None) -> str:
    """The address, or of IPv6 the /64 network that one machine usually has for itself."""
    try:
        parsed = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return address or ""
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else str(parsed)


def _sentence_of_pause(seconds: int) -> str:
    return f"Too many wrong tokens came from your address: try again in {-(-seconds // 60)} minutes."


def _equal_in_constant_time(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(errors="replace"), other.encode(errors="replace"))
