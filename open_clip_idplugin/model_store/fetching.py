"""Resumable download: a file of known size and SHA-256 over https, whole and verified or not there.

Role: `ModelFile` -> that file in a folder. An interrupted download leaves a part that the next call goes on with (HTTP Range).
"""

import http.client
import urllib.error
import urllib.parse
import urllib.request
from email.message import Message
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.model_store.registry import ModelFile
from open_clip_idplugin.storage.atomic import PART
from open_clip_idplugin.storage.file_hash import file_sha256

_SECONDS = 30.0  # without a byte
_ATTEMPTS = 4
_BLOCK = 1 << 16
_AGENT = "open-clip-idplugin"


class DownloadFailed(IdClipError):
    """A file could not be fetched, or was another one; the message says which and what to do."""


class _Broken(Exception):
    """The connection ended before the file did."""


def fetch_file(file: ModelFile, folder: Path, mirror: str | None = None) -> Path:
    """Fetch `file` into `folder`, or go on where an earlier call was interrupted, and return its path.

    mirror: http(s) address of a folder that holds the file under its name, in the place of the file's own address.
    Raises DownloadFailed; OSError where the folder cannot be written to.
    """
    target, part = folder / file.name, folder / (file.name + PART)
    if target.is_file():
        return target
    address = file.url if mirror is None else f"{mirror.rstrip('/')}/{urllib.parse.quote(file.name)}"
    opener = urllib.request.build_opener(_Redirects(_allowed(address, mirror)))
    with tqdm(total=file.size, unit="B", unit_scale=True, unit_divisor=1000, desc=file.name) as progress:
        for attempt in range(1, _ATTEMPTS + 1):
            before = _size(part)
            try:
                _go_on(part, file, address, opener, progress)
                break
            except _Broken as error:
                if attempt == _ATTEMPTS or _size(part) <= before:
                    raise DownloadFailed(
                        f"the download of {file.name} broke off after {_size(part):,} of {file.size:,} bytes ({error}); "
                        "the same command goes on from there"
                    ) from None
    if file_sha256(part) != file.sha256:
        part.unlink()
        raise DownloadFailed(
            f"{address} is not the file {file.name} that was published (its SHA-256 differs), so it was thrown away; "
            "name another --mirror or leave that flag out"
        )
    part.replace(target)
    return target


def _go_on(part: Path, file: ModelFile, address: str, opener: urllib.request.OpenerDirector, progress: Any) -> None:
    """Append to `part` what is missing; raises _Broken where the connection ends early."""
    have = _size(part)
    if have >= file.size:
        return  # judged by its hash
    headers = {"Accept-Encoding": "identity", "User-Agent": _AGENT}
    if have:
        headers["Range"] = f"bytes={have}-"
    with _open(urllib.request.Request(address, headers=headers), opener, file, part) as response:
        if have and not _continues(response, have):
            have = 0  # a server without ranges sends it all again
        _refuse_other_size(response.headers, have, file, address)
        progress.n = have
        progress.refresh()
        with part.open("ab" if have else "wb") as stream:
            while block := _read(response):
                have += len(block)
                if have > file.size:
                    stream.close()
                    part.unlink()
                    raise DownloadFailed(_other_size(file, address, f"more than {file.size:,}"))
                stream.write(block)
                progress.update(len(block))
    if have < file.size:
        raise _Broken("the connection was closed")


def _open(request: urllib.request.Request, opener: urllib.request.OpenerDirector, file: ModelFile, part: Path) -> Any:
    try:
        return opener.open(request, timeout=_SECONDS)
    except DownloadFailed:
        raise
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the part is longer than what is there now
            part.unlink()
        raise DownloadFailed(
            f"{file.name} could not be fetched: {request.full_url} answers {error.code} {error.reason}"
        ) from None
    except (urllib.error.URLError, OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise DownloadFailed(
            f"{file.name} could not be fetched from {request.full_url} ({reason}); check the network, name a --mirror, "
            "or put the file there by hand"
        ) from None


def _read(response: Any) -> bytes:
    try:
        return bytes(response.read(_BLOCK))
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(str(error) or type(error).__name__) from None


def _continues(response: Any, have: int) -> bool:
    """Whether an answer begins where the part ends."""
    return response.status == 206 and str(response.headers.get("Content-Range", "")).startswith(f"bytes {have}-")


def _refuse_other_size(headers: Message, have: int, file: ModelFile, address: str) -> None:
    declared = headers.get("Content-Length")
    if declared is not None and declared.isdigit() and have + int(declared) != file.size:
        raise DownloadFailed(_other_size(file, address, f"{have + int(declared):,}"))


def _other_size(file: ModelFile, address: str, count: str) -> str:
    return (
        f"{address} is not the file {file.name} that was published: it has {count} bytes, not {file.size:,}; "
        "name another --mirror or leave that flag out"
    )


def _allowed(address: str, mirror: str | None) -> tuple[str, ...]:
    """Beginnings of the addresses that may be asked: https, and the mirror that the user named, whatever it is."""
    parts = urllib.parse.urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DownloadFailed(f"--mirror must be an http or https address, not '{mirror}'")
    return ("https://",) if mirror is None else ("https://", f"{parts.scheme}://{parts.netloc}/")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to allowed addresses only; five at most."""

    max_redirections = 5
    max_repeats = 2

    def __init__(self, allowed: tuple[str, ...]) -> None:
        self._allowed = allowed

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """The request that follows a redirect."""
        if not newurl.lower().startswith(self._allowed):
            raise DownloadFailed(f"{req.full_url} redirects to {newurl}, which is not https, and was not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
