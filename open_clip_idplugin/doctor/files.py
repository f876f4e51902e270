"""What lies on the disk: models with their licences, a gallery, an image index and free space -> findings. Nothing is changed."""

import importlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from open_clip_idplugin.assets import MADE_BY, WEIGHTS
from open_clip_idplugin.command_line.missing_packages import install_command, lacking_modules
from open_clip_idplugin.doctor.findings import NOTE, OK, WRONG, Finding
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.gallery import default_gallery
from open_clip_idplugin.gallery.file import examine
from open_clip_idplugin.gallery.schema import SCHEMA_VERSION
from open_clip_idplugin.model_store import MODELS, THERE, folder_of, other_packs, state_of
from open_clip_idplugin.model_store.command import OTHER_LICENCE
from open_clip_idplugin.model_store.installation import MISSING
from open_clip_idplugin.pictures import pictures_read_otherwise
from open_clip_idplugin.storage.locations import user_folder

_LITTLE, _TOO_LITTLE = 5e9, 1e9  # bytes that are free


def face_models() -> Iterator[Finding]:
    """The shipped models, the face models on this disk, and folders of them that are not whole."""
    absent = [name for name in MADE_BY if not (WEIGHTS / name).exists()]
    if absent:
        yield Finding("shipped models", WRONG, f"{', '.join(absent)} not in {WEIGHTS}: install the package again")
    else:
        yield Finding("shipped models", OK, f"the miniature CLIP and face pack (MIT) in {WEIGHTS}")
    states = {name: state_of(model) for name, model in MODELS.items()}
    for name, model in MODELS.items():
        if states[name] == THERE:
            yield Finding("face model", OK, f"{name}, licence: {model.licence}; {folder_of(model)}")
        elif states[name] != MISSING:
            text = f"{name} in {folder_of(model)} is not whole: remove that folder, then `{model.command}`"
            yield Finding("face model", WRONG, text)
    for folder in other_packs():
        yield Finding("face model", OK, f"{folder.name}, licence: {OTHER_LICENCE}; {folder}")
    if THERE not in states.values() and not other_packs():
        yield Finding("face model", NOTE, f"none for photographs here: `{MODELS['opencv'].command}` fetches a free one")


def clip_weights() -> Iterator[Finding]:
    """CLIPs of open_clip's pretrained tags that were fetched before: repositories in the hub's cache, and files of addresses."""
    from huggingface_hub.constants import HF_HUB_CACHE

    open_clip: Any = importlib.import_module("open_clip")
    entries = [open_clip.get_pretrained_cfg(model, tag) for model, tag in open_clip.list_pretrained()]
    places: dict[Path, str] = {}
    for entry in entries:
        repository = (entry.get("hf_hub") or "").rstrip("/")
        if repository.count("/") > 1:  # with a file's name
            repository = repository.rpartition("/")[0]
        if repository:
            places[Path(HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"] = (
                f"https://huggingface.co/{repository}"
            )
        if entry.get("url"):
            places[Path("~/.cache/clip").expanduser() / PurePosixPath(entry["url"]).name] = entry["url"]
    found = {place: origin for place, origin in places.items() if place.exists()}
    for place, origin in sorted(found.items()):
        yield Finding("CLIP weights", OK, f"{_size(place) / 1e6:,.0f} MB from {origin} (licence: see there); {place}")
    if not found:
        yield Finding(
            "CLIP weights", NOTE, "none fetched yet: open_clip fetches a pretrained tag when it is first used"
        )


def gallery(named: str | None) -> Iterator[Finding]:
    """The people's file: whole, private, of which face model; `named` as --gallery does, else the user's own."""
    path = Path(named) if named is not None else default_gallery()
    if named is None and not path.exists():
        yield Finding("gallery", NOTE, f"nobody is enrolled yet ({path}): `idclip enroll NAME PHOTO`")
        return
    if not path.is_file():
        yield Finding("gallery", WRONG, f"there is no gallery at '{path}': enroll somebody first, or name another file")
        return
    health = examine(path)
    text = (
        f"{path}: {health.people} people, {health.photos} photos, face model {health.face_model or 'none yet'}; whole"
    )
    if health.expired:
        text += f"; the consent of {health.expired} has expired, and they are not searched for"
    if health.version < SCHEMA_VERSION:
        text += f"; of schema {health.version}, brought to {SCHEMA_VERSION} when it is next used"
    yield Finding("gallery", NOTE if health.expired else OK, text)
    if not health.private:
        yield Finding("gallery", WRONG, f"others may read the faces in {path}: chmod 600 '{path}'")


def index(named: str | None) -> Iterator[Finding]:
    """An index folder: vectors, metadata, removed rows and faces that belong together, and what made it."""
    if named is None:
        yield Finding("index", NOTE, "none was named: --index FOLDER examines one")
        return
    if lacking_modules("search"):
        yield Finding("index", NOTE, f"not examined, for want of {install_command('search')}")
        return
    folder = Path(named)
    from open_clip_idplugin.retrieval.face_index.reading import load_face_index
    from open_clip_idplugin.retrieval.index_folder.card import load_card
    from open_clip_idplugin.retrieval.index_folder.faiss_files import open_index
    from open_clip_idplugin.retrieval.index_folder.metadata_columns import read_keys
    from open_clip_idplugin.retrieval.index_folder.removed_rows import read_removed

    vectors = open_index(folder / "image.index", mmap=True)
    if vectors is None:
        raise IdClipError(f"'{folder}' holds no image.index: make an index with `idclip index`, or name another folder")
    card, keys, removed = load_card(folder), read_keys(folder), read_removed(folder)
    if vectors.ntotal != len(keys):
        raise IdClipError(f"'{folder}' is damaged: {vectors.ntotal} vectors, but {len(keys)} rows of metadata")
    faces = load_face_index(folder, keys)
    if card is None:
        made = "made by clip-retrieval, so that nobody can tell whether a model fits"
    else:
        made = f"made with {card.model}{f' ({card.checkpoint})' if card.checkpoint else ''}"
    text = f"{folder}: {len(keys):,} images, {len(removed):,} of them removed, {vectors.d} numbers each, {made}"
    if faces is None:
        text += "; no faces (`idclip index_faces` adds them)"
    else:
        text += f"; {faces.info.faces:,} faces by {faces.model_id}"
    others = pictures_read_otherwise(card.decoder) if card is not None else None
    if others is not None:
        text += f"; pictures {others} are found less well until the index is made again"
    yield Finding("index", NOTE if card is None or others is not None else OK, text)


def free_disk() -> Iterator[Finding]:
    """Free space of the file systems of this folder, the user's data and temporary files."""
    systems: dict[int, tuple[Path, list[str]]] = {}
    for name, place in (
        ("this folder", Path.cwd()),
        ("your data", user_folder()),
        ("temporary", Path(tempfile.gettempdir())),
    ):
        there = next(folder for folder in (place, *place.parents) if folder.exists())
        systems.setdefault(there.stat().st_dev, (there, []))[1].append(name)
    for place, names in systems.values():
        free = shutil.disk_usage(place).free
        text = f"{free / 1e9:,.1f} GB at {place} ({', '.join(names)})"
        if free < _TOO_LITTLE:
            yield Finding("free disk", WRONG, f"{text}: make room before an index, a release or a training")
        else:
            yield Finding("free disk", NOTE if free < _LITTLE else OK, text)


def _size(place: Path) -> int:
    files = (
        [place] if place.is_file() else [file for file in place.rglob("*") if file.is_file() and not file.is_symlink()]
    )
    return sum(file.stat().st_size for file in files)
