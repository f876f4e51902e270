"""Logging in with the token: a form for browsers, and the signed cookie that stands for the token afterwards.

Role: Flask application + token -> `/login` and `/logout`; a request -> whether it knows the token.
"""

import hashlib
import hmac
import time
from typing import Any

import flask

from open_clip_idplugin.retrieval.login_limit import LoginLimit

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


def add_login(app: flask.Flask, token: str) -> None:
    """Serve the form, and the way out."""
    limit = LoginLimit()
    app.add_url_rule("/login", "login", lambda: _login(token, limit), methods=["GET", "POST"])
    app.add_url_rule("/logout", "logout", _logout, methods=["POST"])


def is_known(token: str) -> bool:
    """Whether the request at hand brings the token, or a cookie that was signed with it."""
    scheme, _, given = flask.request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and _same(given.strip(), token):
        return True
    expiry, _, signature = flask.request.cookies.get(COOKIE, "").partition(".")
    if not (expiry.isascii() and expiry.isdigit() and len(expiry) < 12):
        return False
    return _same(signature, _sign(expiry, token)) and int(expiry) > time.time()


def _login(token: str, limit: LoginLimit) -> Any:
    """The form, and what it sends: a cookie signed with the token, which is not in it."""
    request = flask.request
    if request.method == "GET":
        return _FORM.format(message="")
    seconds = limit.seconds_to_wait(request.remote_addr)
    if seconds:
        message = f"Too many wrong tokens came from your address: try again in {-(-seconds // 60)} minutes."
        return flask.make_response(_FORM.format(message=message), 429, {"Retry-After": str(seconds)})
    if not _same(request.form.get("token", "").strip(), token):
        limit.note_wrong(request.remote_addr)
        return flask.make_response(_FORM.format(message="That is not the token."), 401)
    expiry = str(int(time.time()) + _COOKIE_SECONDS)
    answer = flask.redirect("/", 303)
    answer.set_cookie(
        COOKIE,
        f"{expiry}.{_sign(expiry, token)}",
        max_age=_COOKIE_SECONDS,
        httponly=True,
        samesite="Strict",
        secure=request.is_secure,
    )
    return answer


def _logout() -> Any:
    answer = flask.redirect("/login", 303)
    answer.delete_cookie(COOKIE, httponly=True, samesite="Strict")
    return answer


def _sign(expiry: str, token: str) -> str:
    return hmac.new(token.encode(), f"session until {expiry}".encode(), hashlib.sha256).hexdigest()


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())
