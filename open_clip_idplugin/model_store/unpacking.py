"""Safe unpacking of a zip: only plain files of expected kinds, no paths, bounded in number and bytes.

Role: the zip of a face pack -> its files in one flat folder. Some packs lie in a folder of their own name inside.
"""

import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from open_clip_idplugin.errors import IdClipError

_SUFFIXES = frozenset({".onnx", ".json", ".txt", ".md"})
_TEXTS = ("license", "licence", "readme", "notice")
_MOST_FILES = 64
_MOST_BYTES = 4 << 30


def unpack(archive: Path, folder: Path) -> list[Path]:
    """Write the models, manifests and licences of `archive` into `folder`, which exists, and return their paths.

    Raises IdClipError for what is no zip, is damaged, leads out of the folder, or is larger than a pack can be.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            return [_write(opened, member, folder / name) for name, member in _members(opened, archive).items()]
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OverflowError) as error:
        raise IdClipError(f"{archive.name} is no usable zip file ({error}); fetch it again") from None


def _members(opened: zipfile.ZipFile, archive: Path) -> dict[str, zipfile.ZipInfo]:
    """File name -> member; what is no model, text or manifest is passed over."""
    found: dict[str, zipfile.ZipInfo] = {}
    infos = [info for info in opened.infolist() if not info.is_dir()]
    if len(infos) > _MOST_FILES or sum(info.file_size for info in infos) > _MOST_BYTES:
        raise IdClipError(f"{archive.name} holds more than a face pack can ({_MOST_FILES} files, 4 GiB); not unpacked")
    for info in infos:
        path = PurePosixPath(info.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in info.filename or ":" in info.filename:
            raise IdClipError(f"{archive.name} holds {info.filename!r}, which leads out of its folder; not unpacked")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise IdClipError(f"{archive.name} holds the link {info.filename!r}; not unpacked")
        if path.name.startswith(".") or "__MACOSX" in path.parts or not _wanted(path):
            continue
        if path.name in found:
            raise IdClipError(f"{archive.name} holds two files named {path.name!r}; not unpacked")
        found[path.name] = info
    return found


def _wanted(path: PurePosixPath) -> bool:
    return path.suffix.lower() in _SUFFIXES or path.name.lower().startswith(_TEXTS)


def _write(opened: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> Path:
    with opened.open(member) as source, target.open("xb") as stream:
        shutil.copyfileobj(
            source, stream, 1 << 20
        )  # zipfile gives no more than the member declares, and checks its CRC
    return target
