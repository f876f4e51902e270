"""Forwarding: a form's fields and files -> what the service behind answers, bounded in bytes and in time.

The address is the operator's, so that it may lie in this network, unlike those of `picture_urls`. Files are read as they are
sent, and redirects are not followed.
"""

import contextlib
import http.client
import re
import secrets
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from typing import IO
from urllib.parse import urlsplit

import orjson

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.retrieval.service.picture_urls import read_bounded, shut_at

_SECONDS = 300.0  # for one answer: a service may have to load, or even to fetch, a model first
_CONNECT_SECONDS = 10.0
_MOST_ANSWER = 32 << 20  # bytes: thousands of faces with their embeddings
_BLOCK = 1 << 16
_PART_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class UpstreamError(IdClipError):
    """The service behind gives no answer that can be passed on; `status` is that of ours."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Upstream:
    """The machine-learning service behind; safe to use from several threads."""

    def __init__(self, address: str | None) -> None:
        """`address`: of http or https, without user name; raises IdClipError for another one, and for none."""
        try:
            parts = urlsplit(address or "")
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
            usable = usable and parts.port != 0 and not parts.query and not parts.fragment
        except ValueError:
            usable = False
        if not usable:
            raise IdClipError(
                f"--upstream must be the address of Immich's own machine-learning service, as http://127.0.0.1:3003, not "
                f"'{address}'"
            )
        self._parts = parts

    def ask(self, fields: Mapping[str, str], files: Mapping[str, IO[bytes]]) -> bytes:
        """The JSON object that answers a form sent to `/predict`; raises UpstreamError where none comes."""
        boundary = secrets.token_hex(16)
        form = _multipart(boundary, fields, files)
        try:
            status, body = self._post(boundary, form)
        except TimeoutError:
            raise UpstreamError("the machine-learning service of --upstream took too long to answer", 504) from None
        except (OSError, http.client.HTTPException):
            raise UpstreamError("the machine-learning service of --upstream cannot be reached", 502) from None
        if status >= 400:
            raise UpstreamError(f"the machine-learning service of --upstream refused this with status {status}", status)
        try:
            if status != 200 or len(body) > _MOST_ANSWER or not isinstance(orjson.loads(body), dict):
                raise ValueError
        except ValueError:
            raise UpstreamError(
                f"the machine-learning service of --upstream gave no JSON object of at most {_MOST_ANSWER >> 20} MB",
                502,
            ) from None
        return body

    def _post(self, boundary: str, form: "list[bytes | IO[bytes]]") -> tuple[int, bytes]:
        """(status, body of at most `_MOST_ANSWER` bytes and a block) of one request."""
        end = time.monotonic() + _SECONDS
        host, port = str(self._parts.hostname), self._parts.port
        if self._parts.scheme == "https":
            secure = ssl.create_default_context()
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, port, timeout=_CONNECT_SECONDS, context=secure
            )
        else:
            connection = http.client.HTTPConnection(host, port, timeout=_CONNECT_SECONDS)
        headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(sum(map(_size, form))),
            "Accept": "application/json",
            "Accept-Encoding": "identity",
        }
        with contextlib.closing(connection):
            connection.connect()
            opened: socket.socket = connection.sock
            opened.settimeout(_SECONDS)
            with shut_at(opened, end):
                try:
                    connection.request("POST", f"{self._parts.path.rstrip('/')}/predict", _blocks(form), headers)
                    response = connection.getresponse()
                    return response.status, read_bounded(response, _MOST_ANSWER)
                finally:
                    if time.monotonic() >= end:  # a connection that was shut looks as if the other side had closed it
                        raise TimeoutError


def _multipart(boundary: str, fields: Mapping[str, str], files: Mapping[str, IO[bytes]]) -> list[bytes | IO[bytes]]:
    """A form in pieces; raises IdClipError for a name that would have to be quoted."""
    for name in (*fields, *files):
        if not _PART_NAME.fullmatch(name):
            raise IdClipError("the fields of the form must have names of letters, digits, '_' and '-'")
    pieces: list[bytes | IO[bytes]] = []
    for name, value in fields.items():
        pieces.append(f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode())
    for name, file in files.items():
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="blob"\r\n'
        pieces += [f"{head}Content-Type: application/octet-stream\r\n\r\n".encode(), file, b"\r\n"]
    return [*pieces, f"--{boundary}--\r\n".encode()]


def _size(piece: bytes | IO[bytes]) -> int:
    if isinstance(piece, bytes):
        return len(piece)
    piece.seek(0, 2)
    return piece.tell()


def _blocks(form: list[bytes | IO[bytes]]) -> Iterator[bytes]:
    for piece in form:
        if isinstance(piece, bytes):
            yield piece
            continue
        piece.seek(0)
        while block := piece.read(_BLOCK):
            yield block
