"""Atomic installation of face models: registry entry -> a whole folder in the place where the engines look for it.

insightface's packs lie where insightface itself looks (`~/.insightface/models/NAME`), OpenCV's in the user's data folder.
Nothing is fetched unless `get_model` is called.
"""

import shutil
from pathlib import Path

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.model_store.fetching import fetch_file
from open_clip_idplugin.model_store.registry import MODELS, FaceModel
from open_clip_idplugin.model_store.unpacking import unpack
from open_clip_idplugin.storage.atomic import atomic_write
from open_clip_idplugin.storage.finite_json import json_text
from open_clip_idplugin.storage.locations import user_folder
from open_clip_idplugin.storage.output_folder import locked, put_in_place

ORIGIN_FILE = "origin.json"  # what was fetched, from where, under which licence
THERE, MISSING, INCOMPLETE = "there", "missing", "incomplete"


def insightface_folder(name: str = "") -> Path:
    """Where insightface keeps the pack `name`; without a name, all of them."""
    return Path("~/.insightface/models").expanduser() / name


def opencv_folder() -> Path:
    """Where `opencv:default` is."""
    return user_folder() / "models" / "opencv"


def folder_of(model: FaceModel) -> Path:
    """The folder in which a model of the registry lies, or would."""
    return insightface_folder(model.name) if model.archive else opencv_folder()


def state_of(model: FaceModel) -> str:
    """THERE, MISSING or INCOMPLETE (a folder without its models)."""
    folder = folder_of(model)
    if not folder.is_dir():
        return MISSING
    if model.archive:
        return THERE if any(folder.glob("*.onnx")) else INCOMPLETE
    sizes = [(folder / file.name).stat().st_size if (folder / file.name).is_file() else -1 for file in model.files]
    return THERE if sizes == [file.size for file in model.files] else INCOMPLETE


def other_packs() -> list[Path]:
    """Folders of packs in insightface's folder that the registry does not know, in order of their names."""
    root = insightface_folder()
    folders = sorted(path for path in root.iterdir() if path.name not in MODELS) if root.is_dir() else []
    return [folder for folder in folders if not folder.name.startswith(".") and any(folder.glob("*.onnx"))]


def get_model(name: str, accept_licence: bool = False, mirror: str | None = None) -> Path:
    """Fetch a model of the registry and return its folder, or the folder that is there already.

    All or nothing: the folder appears whole. Interrupted, the next call goes on. mirror: see `fetch_file`.

    Raises IdClipError: unknown name, licence not accepted, no room or no right to write, and whatever `fetch_file` and
    `unpack` refuse.
    """
    model = _registered(name)
    folder = folder_of(model)
    if state_of(model) == THERE:
        return folder
    if model.terms is not None and not accept_licence:
        raise IdClipError(
            f"{name} is for {model.licence} (see {model.terms}): say `{model.command}` if that is your use, or take "
            f"`{MODELS['opencv'].command}`, which is free for any"
        )
    if folder.is_dir() and any(folder.iterdir()):
        raise IdClipError(f"{folder} is there, but is not {name} as it was published; move it away first")
    making = folder.parent / f".{folder.name}.part"
    try:
        with locked(making, f"another process is writing to {making}; wait for it to end"):
            _make_room(model, making)
            _fill(model, making, folder, mirror)
            shutil.rmtree(making)
    except OSError as error:
        raise IdClipError(f"cannot write {name} to {folder} ({error.strerror or error})") from error
    return folder


def remove_model(name: str) -> Path:
    """Delete a model that `get_model` fetched, and what an interrupted download left; returns its folder.

    Raises IdClipError where there is none, and for a folder that somebody else made.
    """
    model = _registered(name)
    folder = folder_of(model)
    making = folder.parent / f".{folder.name}.part"
    if making.is_dir():
        shutil.rmtree(making)
    elif not folder.is_dir():
        raise IdClipError(f"there is no {name} to remove: {folder} does not exist")
    if folder.is_dir():
        if not (folder / ORIGIN_FILE).is_file():
            raise IdClipError(f"{folder} was not fetched by `idclip models`; remove it yourself")
        shutil.rmtree(folder)
    return folder


def _registered(name: str) -> FaceModel:
    if name not in MODELS:
        raise IdClipError(f"there is no model {name!r} to fetch; choose one of {', '.join(MODELS)}")
    return MODELS[name]


def _make_room(model: FaceModel, making: Path) -> None:
    have = sum(path.stat().st_size for path in making.iterdir() if path.is_file())
    wanted = (model.size if not model.archive else 3 * model.size) - have  # a zip and what comes out of it
    free = shutil.disk_usage(making).free
    if free < wanted:
        raise IdClipError(
            f"{model.name} needs {wanted / 1e6:.0f} MB, and there are {free / 1e6:.0f} MB left for {making.parent}; make room"
        )


def _fill(model: FaceModel, making: Path, folder: Path, mirror: str | None) -> None:
    """Fetch into the hidden folder `making`, and rename what is whole to `folder`."""
    fetched = [fetch_file(file, making, mirror) for file in model.files]
    ready = making / "ready"
    shutil.rmtree(ready, ignore_errors=True)  # of a run that was killed
    ready.mkdir()
    if model.archive:
        if not any(path.suffix == ".onnx" for path in unpack(fetched[0], ready)):
            raise IdClipError(f"{fetched[0].name} holds no .onnx file")
    else:
        for path in fetched:
            path.rename(ready / path.name)
    origin = {
        "name": model.name,
        "licence": model.licence,
        "terms": model.terms,
        "files": [{"name": file.name, "url": file.url, "sha256": file.sha256} for file in model.files],
    }
    atomic_write(ready / ORIGIN_FILE, json_text(origin, indent=1) + "\n")
    put_in_place(ready, folder)
