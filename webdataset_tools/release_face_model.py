"""Face model of a release: `face_model.json` <-> which model made its embeddings, and how long they are.

Role: the model id travels from the swap through the release into every sample. The published release has no such file; its
embeddings are taken as the flags say.
"""

import json
from dataclasses import asdict, dataclass

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces import ModelMismatch, same_model
from open_clip_idplugin.storage import locations
from open_clip_idplugin.storage.atomic import atomic_write
from open_clip_idplugin.storage.finite_json import json_text
from open_clip_idplugin.storage.locations import Location
from webdataset_tools.release_files import ReleaseError

FACE_MODEL_FILE = "face_model.json"


@dataclass(frozen=True)
class ReleaseFaceModel:
    """The id of the recogniser (`FaceEngine.model_id`) and the length of its embeddings."""

    face_model: str
    embedding_size: int


def write_face_model(release: Location, model: ReleaseFaceModel) -> None:
    """Note the model in a release's folder."""
    atomic_write(release / FACE_MODEL_FILE, json_text(asdict(model), indent=1) + "\n")


def read_face_model(release: Location) -> ReleaseFaceModel | None:
    """Return what a release notes about its face embeddings, None where it notes nothing.

    Raises ReleaseError when the file has another form.
    """
    path = release / FACE_MODEL_FILE
    if not locations.is_file(path):
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return ReleaseFaceModel(str(values["face_model"]), int(values["embedding_size"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ReleaseError(
            f"{path} does not name a face model and its embedding size ({error}); copy it again"
        ) from None


def agreed_model(noted: ReleaseFaceModel | None, told: str | None) -> str | None:
    """Return the model id of a release's embeddings: what it notes, else what the user tells.

    Raises ModelMismatch when both are known and differ.
    """
    known = noted.face_model if noted else None
    if not same_model(known, told):
        raise ModelMismatch(f"the release's face embeddings were made with {known}, not {told}; leave --face-model out")
    return known or told


def agreed_size(noted: ReleaseFaceModel | None, told: int | None, default: int) -> int:
    """Return the length of a release's embeddings: what the user tells, else what the release notes, else `default`.

    Raises IdClipError when both are known and differ.
    """
    if noted is not None and told is not None and told != noted.embedding_size:
        raise IdClipError(
            f"the release's face embeddings have {noted.embedding_size} numbers, --embedding-size says {told}"
        )
    return told or (noted.embedding_size if noted else default)
