"""Sample format: members of a tar <-> `Sample`; the only file that spells member names.

Role: Sample <-> tar members, and sequential reading of shards. Input: shards (paths, brace notation or a folder);
output: `Sample` objects. A sample's key is `<image id>_<identity id>`; it holds no dot, because readers split a
member's name at its first dot and silently drop what does not fit.
"""

import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage.arrays import read_array
from open_clip_idplugin.storage.finite_json import json_text
from open_clip_idplugin.storage.locations import expand_braces, location

IMAGE = "jpg"
CAPTION = "txt"
FACE = "face.npy"
FACE_CROP = "face.jpg"
RECORD = "json"
MEMBERS = (FACE_CROP, FACE, IMAGE, RECORD, CAPTION)  # the order inside a tar
REQUIRED = (IMAGE, CAPTION, FACE, RECORD)

CROP_FROM_PHOTO = "identity_photo"
CROP_FROM_IMAGE = "swapped_image"
FACE_CROP_BYTES = 8192  # of a face crop, about

SIZES_FILE = "sizes.json"  # open_clip looks for it beside the shards
INDEX_FILE = "index.json"  # wids-shard-index-v1
REPORT_FILE = "report.json"

_KEY = re.compile(r"(?P<image>\d{1,12})_(?P<identity>[\w-]{1,64})", re.ASCII)


class SampleFormatError(IdClipError):
    """A sample of a shard does not have the form that this project writes."""


@dataclass(frozen=True)
class SampleRecord:
    """The JSON member: who and what is in the image, and where it comes from."""

    image_id: int
    identity_id: str
    identity_name: str  # with spaces, not underscores; the id where no name is known
    captions: tuple[str, ...]  # the first five at most, stripped
    split: str  # train, val or test
    file_name: str  # of the image in the release
    source: str  # name of the release's folder
    synthetic: bool = True  # the face was put there by a machine
    face_crop_source: str | None = None  # CROP_FROM_PHOTO, CROP_FROM_IMAGE, or None without a crop
    face_photo: str | None = None  # <identity id>/<file> of the crop, where it comes from a photo
    face_model: str | None = None  # model id of the face embedding, where known
    attributes: Mapping[str, Any] = field(default_factory=dict)  # the release's own notes, such as the stratum

    def to_json(self) -> str:
        """Return the record as one line of JSON; the same record gives the same text."""
        return json_text(vars(self), ensure_ascii=False)  # not asdict, which copies deeply and slowly

    @classmethod
    def from_json(cls, text: str | bytes) -> "SampleRecord":
        """Read what `to_json` wrote; unknown fields (of a later version) are left out.

        Raises SampleFormatError when the text is no JSON object or a required field is missing.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise SampleFormatError(f"the record of a sample is not JSON ({error})") from None
        if not isinstance(values, dict):
            raise SampleFormatError(f"the record of a sample is a JSON {type(values).__name__}, not an object")
        known = {name: value for name, value in values.items() if name in _FIELD_TYPES}
        wrong = [name for name, value in known.items() if not isinstance(value, _FIELD_TYPES[name])]
        captions = known.get("captions", [])
        if wrong or not all(isinstance(caption, str) for caption in captions):
            raise SampleFormatError(f"the record of a sample has a wrong type in {', '.join(wrong) or 'captions'}")
        try:
            return cls(**{**known, "captions": tuple(captions)})
        except TypeError as error:
            raise SampleFormatError(f"the record of a sample is incomplete ({error}); pack it again") from None

    @property
    def key(self) -> str:
        """The sample's key, `<image id>_<identity id>`."""
        return sample_key(self.image_id, self.identity_id)


_OPTIONAL_TEXT = (str, type(None))
_FIELD_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "image_id": int,
    "captions": list,
    "synthetic": bool,
    "attributes": dict,
    **dict.fromkeys(("identity_id", "identity_name", "split", "file_name", "source"), str),
    **dict.fromkeys(("face_crop_source", "face_photo", "face_model"), _OPTIONAL_TEXT),
}


@dataclass(frozen=True)
class Sample:
    """One image with one person.

    key            `<image id>_<identity id>`, safe as a file name
    image_bytes    the release's file, untouched
    caption        one plain caption (the first)
    face           [D] float32, the release's face embedding as it is (not normalised)
    face_crop_bytes  JPEG of the aligned 112x112 face, or None
    """

    key: str
    image_bytes: bytes
    caption: str
    face: np.ndarray
    face_crop_bytes: bytes | None
    record: SampleRecord


def sample_key(image_id: int, identity_id: str) -> str:
    """Return `<image id>_<identity id>`."""
    return f"{image_id}_{identity_id}"


def parse_key(key: str) -> tuple[int, str] | None:
    """Return (image id, identity id), or None when `key` is not `<digits>_<letters, digits, _ or ->`."""
    match = _KEY.fullmatch(key)
    return (int(match["image"]), match["identity"]) if match else None


def sample_to_members(sample: Sample) -> dict[str, bytes]:
    """Return member name -> content, in the order in which they are written."""
    contents = {
        FACE_CROP: sample.face_crop_bytes,
        FACE: _array_to_bytes(sample.face),
        IMAGE: sample.image_bytes,
        RECORD: sample.record.to_json().encode(),
        CAPTION: sample.caption.encode(),
    }
    return {name: content for name in MEMBERS if (content := contents[name]) is not None}


def members_to_sample(members: Mapping[str, Any]) -> Sample:
    """Build a Sample from webdataset's dict of undecoded members (`__key__` beside the contents as bytes).

    Raises SampleFormatError, naming the key, when the key has another form or a member is missing or unreadable.
    """
    key = members["__key__"]
    if parse_key(key) is None:
        raise SampleFormatError(f"'{key}' is not a sample of this project: keys are <image id>_<identity id>")
    missing = [name for name in REQUIRED if name not in members]
    if missing:
        raise SampleFormatError(f"sample {key} lacks .{', .'.join(missing)}; pack the shard with `idclip shards`")
    try:
        record = SampleRecord.from_json(members[RECORD])
        if record.key != key:
            raise SampleFormatError(f"its record is about {record.key}")
        return Sample(
            key=key,
            image_bytes=members[IMAGE],
            caption=members[CAPTION].decode(),
            face=_bytes_to_array(members[FACE]),
            face_crop_bytes=members.get(FACE_CROP),
            record=record,
        )
    except ValueError as error:
        raise SampleFormatError(f"sample {key} is damaged: {error}") from None


def read_samples(shards: str | Path | Sequence[str | Path]) -> Iterator[Sample]:
    """Yield every sample of the shards in order; see `shard_paths` for what `shards` may be.

    Raises SampleFormatError at the first sample of another form, and IdClipError when a shard is missing or damaged.
    """
    return _read(shard_paths(shards))


def tar_stages(paths: Sequence[str]) -> list[Any]:
    """webdataset's stages from paths or URLs of tars to members; raises IdClipError for an address that it cannot open."""
    import webdataset
    from webdataset.gopen import gopen_schemes

    for path in paths:
        scheme, colon, _ = path.partition("://")
        if colon and scheme not in gopen_schemes:
            known = ", ".join(filter(str.isalnum, gopen_schemes))
            raise IdClipError(f"shards cannot be read from {path}: webdataset opens {known}, and pipe: for any program")
    return [webdataset.SimpleShardList(paths), webdataset.tarfile_to_samples(handler=webdataset.reraise_exception)]


def _read(paths: list[str]) -> Iterator[Sample]:
    import webdataset

    pipeline = webdataset.DataPipeline(*tar_stages(paths))
    try:
        for members in pipeline:
            yield members_to_sample(members)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise IdClipError(f"a shard cannot be read ({error}); pack it or copy it again") from error


def shard_paths(shards: str | Path | Sequence[str | Path]) -> list[str]:
    """Return the shards that are meant: a tar, brace notation (`d/{00000..00007}.tar`), `::` between several, a folder
    (all its tars by name), or a list of these. file:// URLs become paths, others pass unchecked.

    Raises IdClipError when nothing is there.
    """
    if isinstance(shards, (str, Path)):
        shards = str(shards).split("::")
    paths = [path for entry in shards for path in _expand(str(entry))]
    if not paths:
        raise IdClipError("no shards given; name tar files, a folder of them, or 'folder/{00000..00007}.tar'")
    return paths


def _expand(entry: str) -> list[str]:
    if entry.startswith("file://"):
        entry = str(location(entry))
    if "://" in entry or entry.startswith("pipe:"):
        return expand_braces(entry)
    if Path(entry).is_dir():
        tars = sorted(str(path) for path in Path(entry).glob("*.tar"))
        if not tars:
            raise IdClipError(f"the folder {entry} holds no .tar shards; make some with `idclip shards`")
        return tars
    paths = [entry] if Path(entry).exists() else expand_braces(entry)
    for path in paths:
        if not Path(path).is_file():
            raise IdClipError(f"there is no shard {path}; make shards with `idclip shards`")
    return paths


def _array_to_bytes(array: np.ndarray) -> bytes:
    return _array_header(array.shape) + np.ascontiguousarray(array, dtype="<f4").tobytes()


@lru_cache(maxsize=8)  # embeddings of a release are all of one length
def _array_header(shape: tuple[int, ...]) -> bytes:
    """Return numpy's header of a float32 array."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return stream.getvalue()


def _bytes_to_array(content: bytes) -> np.ndarray:
    array = read_array(content)
    if array.ndim != 1 or array.dtype.kind != "f":
        raise SampleFormatError(f"its face embedding is {array.dtype}{list(array.shape)}, not a vector of floats")
    return np.ascontiguousarray(array, dtype=np.float32)
