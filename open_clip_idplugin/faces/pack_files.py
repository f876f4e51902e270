"""Face pack lookup: name -> folder -> model files by task, without the network and without sessions.

insightface would start a download (without a timeout) for a folder that is missing, and answers a broken folder with
bare assertions; here every such case ends in `PackNotFound` or `PackInvalid`.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from open_clip_idplugin.faces.errors import (
    DetectorMissing,
    ManifestBroken,
    ModelUnreadable,
    PackEmpty,
    PackInvalid,
    PackNested,
    PackNotFound,
    RecogniserMissing,
)
from open_clip_idplugin.faces.model_identity import ModelIdentity, weights_hash
from open_clip_idplugin.faces.onnx_files import read_graph
from open_clip_idplugin.model_store import how_to_get, insightface_folder

SHIPPED_PACK = "miniature"
_NEEDED: Mapping[str, tuple[type[PackInvalid], str]] = {
    "detection": (DetectorMissing, "detector; it needs an SCRFD detector with landmarks"),
    "recognition": (RecogniserMissing, "recogniser; it needs an ArcFace recogniser"),
}


@dataclass(frozen=True)
class Pack:
    """A pack's folder and its model files by insightface's task names ("detection", "recognition", "genderage").

    `manifest` tells that a version 2 manifest names the files (and how their input is scaled); `det_size` is the side
    of the square that the detector sees a picture in, unless the user says otherwise.
    """

    name: str
    folder: Path
    files: dict[str, Path]
    manifest: bool = False
    det_size: int = 640

    @property
    def shipped(self) -> bool:
        """Whether it is the pack of drawn faces that comes with this package, and no other folder of that name."""
        return self.folder == _folder_of(SHIPPED_PACK)

    @property
    def model_id(self) -> str:
        """`insightface:<pack>/<recogniser>-<12 hex digits of its SHA-256>`: other weights, other id."""
        recogniser = self.files["recognition"]
        return str(ModelIdentity("insightface", f"{self.name}/{recogniser.stem}", weights_hash(recogniser)))


def find_pack(name: str, task: str) -> Pack:
    """Resolve `name` ("miniature", a pack's name, or a folder written with a slash) and route its files.

    Raises:
        PackNotFound: no such folder.
        PackInvalid: the folder lacks a model for `task` ("detection" or "recognition"), or holds an unreadable one.
    """
    folder = _folder_of(name)
    label = name if _is_bare(name) else folder.name
    if not folder.is_dir():
        raise PackNotFound(_missing(name, folder))
    from insightface.model_zoo.package_manifest import has_model_package_manifest

    manifest = has_model_package_manifest(folder)
    files = _manifest_files(folder) if manifest else _routed_files(folder)
    if task not in files:
        kind, word = _NEEDED[task]
        raise kind(f"The face pack {folder} holds no {word} (.onnx).")
    return Pack(label, folder, files, manifest, _recommended_det_size(folder) if manifest else 640)


def _is_bare(name: str) -> bool:
    """A name, not a path: looked up under insightface's root, so that no folder beside us shadows a pack."""
    return "/" not in name and os.sep not in name and name not in (".", "..", "~")


def _folder_of(name: str) -> Path:
    if name == SHIPPED_PACK:
        from open_clip_idplugin.assets import shipped

        return Path(shipped("miniature_faces"))
    return insightface_folder(name) if _is_bare(name) else Path(name).expanduser()


def _missing(name: str, folder: Path) -> str:
    if not _is_bare(name):
        return f"The face pack's folder {folder} does not exist; give the folder that holds its .onnx files."
    hint = f" (for the folder here write ./{name})" if Path(name).is_dir() else ""
    return (
        f"The face pack {name!r} is not in {folder}{hint}; {how_to_get(name)}, or put its .onnx files there; nothing is "
        "downloaded by itself."
    )


def _manifest_files(folder: Path) -> dict[str, Path]:
    """Files of a version 2 manifest, their SHA-256 checked."""
    from insightface.model_zoo.package_manifest import load_model_package, verify_model_artifact

    try:
        tasks = load_model_package(folder).tasks
        files = {task: verify_model_artifact(descriptor) for task, descriptor in tasks.items()}
    except (TypeError, ValueError, OSError, RuntimeError) as error:
        raise ManifestBroken(f"The manifest of the face pack {folder} does not hold: {error}.") from error
    for path in files.values():
        read_graph(Path(path))
    return files


def _recommended_det_size(folder: Path) -> int:
    """The manifest's `det_size`, our own addition to it: insightface passes over fields it does not know."""
    side = json.loads((folder / "manifest.json").read_text()).get("det_size", 640)
    if not isinstance(side, int) or side < 64 or side % 32:
        raise ManifestBroken(f"The manifest of the face pack {folder} gives det_size {side!r}, not a multiple of 32.")
    return side


def _routed_files(folder: Path) -> dict[str, Path]:
    """The first file of each task in order of names, as insightface chooses."""
    paths = sorted(folder.glob("*.onnx"))
    if not paths:
        nested = sorted(path.parent for path in folder.glob("*/*.onnx"))
        if nested:
            raise PackNested(
                f"The face pack {folder} holds no .onnx file; the files lie in {nested[0]}, move them up or name that folder."
            )
        raise PackEmpty(f"The face pack {folder} holds no .onnx file; unpack them there.")
    files: dict[str, Path] = {}
    for path in paths:
        task = _task_of(path)
        if task is not None:
            files.setdefault(task, path)
    return files


def _task_of(path: Path) -> str | None:
    """What insightface takes a model for, by its inputs and outputs; None for models we do not run.

    Landmark models and swappers are told apart without a session: they are large, and not needed.
    """
    graph = read_graph(path)
    try:
        sides = [dimension.dim_value for dimension in graph.input[0].type.tensor_type.shape.dim[2:4]]
    except (IndexError, AttributeError) as error:
        raise ModelUnreadable(
            f"The model file {path} cannot be read as ONNX ({type(error).__name__}); fetch it again."
        ) from error
    initialised = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in initialised]  # old exporters list weights as inputs
    if len(graph.output) >= 5:
        return "detection"
    if sides == [96, 96]:
        return "genderage"
    square = len(sides) == 2 and sides[0] == sides[1] and sides[0] >= 112 and sides[0] % 16 == 0
    return "recognition" if square and sides[0] != 192 and len(inputs) == 1 else None
