"""Readers of a COCO-PFS release: each of its files -> values, or a refusal in a sentence.

Role: file -> plain Python values, without any joining or judging. Input: places inside a release; output: captions per
image, names per identity, face embeddings per key. Large files are streamed.
"""

import json
import re
from collections.abc import Container, Iterator
from typing import Any

import orjson

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage import identity_names
from open_clip_idplugin.storage.identity_names import IdentityNamesError
from open_clip_idplugin.storage.locations import Location

_CHUNK = 1 << 22  # characters read at a time
_LONGEST_ID = 20  # digits
_LARGEST_VALUE = 1 << 26  # characters; more without an end means that the file is broken
_ENTRY = re.compile(r'\s*[{,]\s*("(?:[^"\\]|\\.)*")\s*:\s*', re.DOTALL)
_NUMBERS = re.compile(r"\[[-+.eE0-9,\s\[\]]*\]")  # an embedding: read by orjson, ten times as fast
_CLOSE = re.compile(r"\s*(\{\s*)?\}\s*")


class ReleaseError(IdClipError):
    """A release lacks a file or a file has another form than the published one."""


def stream_object(path: Location) -> Iterator[tuple[str, Any]]:
    """Yield (key, value) of a file that is one JSON object, in file order and with repeated keys.

    Memory stays at a few MB however large the file is (the embeddings of a release are hundreds of MB of text).
    Raises ReleaseError when the file is no JSON object or ends early.
    """
    decoder = json.JSONDecoder()
    with path.open(encoding="utf-8-sig") as stream:
        window, at = "", 0
        while True:
            match = _ENTRY.match(window, at)
            if match:
                value, end = _decode(decoder, window, match.end())
                if end < len(window):  # otherwise the value might go on in the next chunk
                    yield json.loads(match[1]), value
                    at = end
                    continue
            try:
                more = stream.read(_CHUNK)
            except UnicodeDecodeError as error:
                raise ReleaseError(f"{path} is not a JSON file in UTF-8 ({error}); copy it again") from None
            if not more or len(window) - at > _LARGEST_VALUE:
                if not more and _CLOSE.fullmatch(window, at):
                    return
                near = window[at : at + 40]
                raise ReleaseError(f"{path} is not one complete JSON object (broken near {near!r}); copy it again")
            window, at = window[at:] + more, 0


def _decode(decoder: json.JSONDecoder, window: str, start: int) -> tuple[Any, int]:
    numbers = _NUMBERS.match(window, start)
    if numbers:
        try:
            return orjson.loads(numbers[0]), numbers.end()
        except orjson.JSONDecodeError:  # stricter than Python's, which also knows NaN; that one judges
            pass
    try:
        return decoder.raw_decode(window, start)
    except ValueError:  # cut off at the window's end, or broken: the caller finds out
        return None, len(window)


def read_captions(path: Location, wanted: Container[int]) -> dict[int, list[str]]:
    """Return image id -> captions (on one line each, in file order, empty ones dropped) of a COCO captions file.

    Only images in `wanted` are kept; single broken entries, such as captions that are no text, are passed over. Raises
    ReleaseError when the file is not a COCO captions file.
    """
    try:
        annotations = list(json.loads(path.read_text(encoding="utf-8-sig"))["annotations"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise _no_captions_file(path, error) from None
    captions: dict[int, list[str]] = {}
    broken: list[Exception] = []
    for annotation in annotations:
        try:
            image_id, caption = read_image_id(annotation["image_id"]), annotation["caption"]
            if image_id is None or not isinstance(caption, str):
                raise TypeError("image_id must be a whole number, caption a text")
            caption = " ".join(encodable(caption).split())
        except (KeyError, TypeError) as error:
            broken.append(error)
            continue
        if caption and image_id in wanted:
            captions.setdefault(image_id, []).append(caption)
    if broken and len(broken) == len(annotations):
        raise _no_captions_file(path, broken[0])
    return captions


def _no_captions_file(path: Location, error: Exception) -> ReleaseError:
    reason = f"{type(error).__name__}: {error}"
    return ReleaseError(f"{path} is not a COCO captions file with image_id and caption ({reason})")


def read_image_id(value: object) -> int | None:
    """Return an id of COCO's form, a whole number or its digits as text (`"000000397133"`); None for anything else."""
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdecimal() and len(value) <= _LONGEST_ID else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def read_identity_names(path: Location) -> dict[str, str]:
    """`identity_names.read_identity_names` of a release's file; raises ReleaseError where it has another form."""
    try:
        return identity_names.read_identity_names(path)
    except IdentityNamesError as error:
        raise ReleaseError(str(error)) from None


def encodable(text: str) -> str:
    """Return text that can be written as UTF-8: half characters (of broken JSON or foreign file names) become `?`."""
    return text.encode("utf-8", "replace").decode()


def read_attributes(path: Location) -> dict[str, dict[str, Any]]:
    """Return `<image id>_<identity id>` -> notes; values that are not objects are refused with ReleaseError."""
    attributes: dict[str, dict[str, Any]] = {}
    for key, value in stream_object(path):
        if not isinstance(value, dict):
            raise ReleaseError(f"{path}: the value of {key!r} must be an object, it is {type(value).__name__}")
        attributes[key] = value
    return attributes
