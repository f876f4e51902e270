"""Logging in with the token: a form for browsers, and the signed cookie that stands for the token afterwards.

Role: Flask application + token -> `/login` and `/logout`; a request -> the answer that refuses it, or none.
"""

import hashlib
import hmac
import secrets
import threading
import time
from typing import Any

import flask

from open_clip_idplugin.retrieval.service.login_limit import LoginLimit

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

    Cookies are signed with a key of this process, so that none outlives it; which ones were logged out is kept until they expire.
    """

    def __init__(self, token: str) -> None:
        self._token = token
        self._key = hmac.new(token.encode(), secrets.token_bytes(32), hashlib.sha256).digest()
        self._limit = LoginLimit()
        self._lock = threading.Lock()
        self._ended: dict[str, int] = {}  # session -> time at which its cookie expires

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
                answer = flask.jsonify(message=_too_many(seconds))
                answer.status_code, answer.headers["Retry-After"] = 429, str(seconds)
                return answer
            if _same(given.strip(), self._token):
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
            return flask.make_response(_FORM.format(message=_too_many(seconds)), 429, {"Retry-After": str(seconds)})
        if not _same(request.form.get("token", "").strip(), self._token):
            self._limit.note_wrong(request.remote_addr)
            return flask.make_response(_FORM.format(message="That is not the token."), 401)
        content = f"{int(time.time()) + _COOKIE_SECONDS}.{secrets.token_hex(16)}"
        answer = flask.redirect("/", 303)
        answer.set_cookie(
            COOKIE,
            f"{content}.{self._sign(content)}",
            max_age=_COOKIE_SECONDS,
            httponly=True,
            samesite="Strict",
            secure=request.is_secure,
        )
        return answer

    def _logout(self) -> Any:
        known = self._session()
        if known is not None:
            expiry, session = known
            with self._lock:
                now = time.time()
                self._ended = {other: end for other, end in self._ended.items() if end > now} | {session: expiry}
        answer = flask.redirect("/login", 303)
        answer.delete_cookie(COOKIE, httponly=True, samesite="Strict")
        return answer

    def _session(self) -> tuple[int, str] | None:
        """When the session of the request's cookie expires, and its name; None where there is no valid one."""
        content, _, signature = flask.request.cookies.get(COOKIE, "").rpartition(".")
        expiry, _, session = content.partition(".")
        if not (_same(signature, self._sign(content)) and int(expiry) > time.time()):  # what we signed has a number
            return None
        with self._lock:
            return None if session in self._ended else (int(expiry), session)

    def _sign(self, content: str) -> str:
        return hmac.new(self._key, f"session until {content}".encode(), hashlib.sha256).hexdigest()


def _too_many(seconds: int) -> str:
    return f"Too many wrong tokens came from your address: try again in {-(-seconds // 60)} minutes."


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(errors="replace"), other.encode(errors="replace"))
