"""A COCO-PFS release -> the list of samples of one split.

Role: the layout (which file lies where) and the join of embeddings, captions and names. Input: the release's folder or URL;
output: `ReleaseSplit` with every usable sample, sorted by key, and every unusable one with its reason. Images are not
opened here.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from open_clip_idplugin.storage import locations
from open_clip_idplugin.storage.identity_names import IDENTITY_FILE as IDENTITY_FILE
from open_clip_idplugin.storage.locations import Location, Place
from open_clip_idplugin.storage.reports import Skip
from webdataset_tools import release_files, shard_report
from webdataset_tools.release_face_model import ReleaseFaceModel, agreed_size, read_face_model
from webdataset_tools.release_files import ReleaseError
from webdataset_tools.sample_format import parse_key, sample_key

EMBEDDING_SIZE = 512
CAPTIONS_PER_IMAGE = 5
COCO_FOLDER = "coco_dataset"
IDENTITY_FOLDER = "vggface_test_kaggle"
PHOTO_FOLDER = f"{IDENTITY_FOLDER}/photos"  # our own releases; the published one has no photos
ATTRIBUTES_FILE = "attributes.json"


@dataclass(frozen=True)
class SplitFiles:
    """Names of a split's files inside `coco_dataset`."""

    images: str  # folder
    captions: str  # below annotations/
    features: str  # face embeddings; the keys are the split; anywhere below coco_dataset


SPLITS: Mapping[str, SplitFiles] = {
    "train": SplitFiles(
        "coco_train_swapped", "annotations/captions_train2017.json", "features_train_small_faceswap.json"
    ),
    "val": SplitFiles("coco_val_swap_new", "annotations/captions_val2017.json", "features_new_val_small_faceswap.json"),
    "test": SplitFiles(
        "coco_val_swap_new", "annotations/captions_val2017.json", "features_new_entities_test_small_faceswap.json"
    ),
}


@dataclass(frozen=True)
class ReleaseSample:
    """One swapped image of a release.

    face  [D] float32, the release's embedding as it is.
    """

    image_id: int
    identity_id: str
    identity_name: str
    captions: tuple[str, ...]
    file_name: str
    face: np.ndarray
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The sample's key, `<image id>_<identity id>`."""
        return sample_key(self.image_id, self.identity_id)


@dataclass(frozen=True)
class ReleaseSplit:
    """One split, read."""

    source: str  # name of the release's folder
    split: str
    images: Location  # folder of the swapped images
    samples: list[ReleaseSample]  # sorted by key
    skipped: list[Skip]
    face_model: ReleaseFaceModel | None = None  # where the release notes it


def swapped_file_name(image_id: int, identity_id: str) -> str:
    """Return the file name of a swapped image, such as `000000302882.jpg_n000129.jpg`."""
    return f"{image_id:012d}.jpg_{identity_id}.jpg"


def load_release(
    release: Place,
    split: str,
    embedding_size: int | None = None,
    names_required: bool = True,
    features: Place | None = None,
) -> ReleaseSplit:
    """Read one split of a release; `release` may be a URL.

    `features`: a file of face embeddings in the release's form, whose keys are the split, in place of the one of that
    name in the release; a `split` of any other name needs one. Without `embedding_size` embeddings are as long as the
    release notes, else 512. With `names_required` an identity without a name is skipped, and a release without
    `identity_meta.csv` refused; else the identity id stands in for the name. Raises ReleaseError when a file of the
    layout is missing or broken.
    """
    if split not in SPLITS and features is None:
        raise ReleaseError(
            f"there is no split '{split}'; choose one of {', '.join(SPLITS)}, or name the file with its face embeddings, whose "
            "keys are the split, with --features"
        )
    root = locations.location(release).resolve()
    coco = root / COCO_FOLDER
    if not locations.is_folder(coco):
        raise ReleaseError(f"{release} holds no folder {COCO_FOLDER}; give the release's top folder")
    noted, skipped = read_face_model(root), list[Skip]()
    place = _find_features(coco, SPLITS[split].features) if features is None else _features_file(features)
    faces = dict(read_faces(place, agreed_size(noted, embedding_size, EMBEDDING_SIZE), skipped))
    files = SPLITS[split] if split in SPLITS else _split_that_holds(coco, faces)
    captions_path, images = coco / files.captions, coco / files.images
    if not locations.is_file(captions_path):
        raise ReleaseError(f"the release lacks {captions_path}; it is COCO's own captions file")
    if not locations.is_folder(images):
        raise ReleaseError(f"the release lacks the image folder {images}")

    captions = release_files.read_captions(captions_path, {image_id for image_id, _ in faces})
    files_there = {entry.name for entry in locations.list_folder(images)}
    name_of = _load_names(root, names_required)
    samples = list(_join(faces, captions, name_of, _load_attributes(root), files_there, skipped))
    skipped.sort(key=lambda skip: (skip.reason, skip.key, skip.detail))
    return ReleaseSplit(root.name, split, images, samples, skipped, noted)


def _features_file(place: Place) -> Location:
    path = locations.location(place).resolve()
    if not locations.is_file(path):
        raise ReleaseError(
            f"there is no file {place} with face embeddings; --features wants <image id>_<identity> -> embedding"
        )
    return path


def _split_that_holds(coco: Location, keys: Collection[tuple[int, str]]) -> SplitFiles:
    """The release's own split whose image folder holds most of these images; the first of equal ones."""
    wanted = {swapped_file_name(*key) for key in keys}

    def found(files: SplitFiles) -> int:
        folder = coco / files.images
        there = locations.list_folder(folder) if locations.is_folder(folder) else []
        return sum(entry.name in wanted for entry in there)

    return max(SPLITS.values(), key=found)


def read_faces(path: Location, size: int, skipped: list[Skip]) -> Iterator[tuple[tuple[int, str], np.ndarray]]:
    """Yield ((image id, identity id), [size] float32) of the usable entries, in the file's order; others go to `skipped`."""
    seen = set()
    for text, value in release_files.stream_object(path):
        key = parse_key(text)
        if key is None:
            skipped.append(Skip(text, shard_report.BAD_KEY, "not <image id>_<identity id>"))
        elif key in seen:
            skipped.append(Skip(sample_key(*key), shard_report.DUPLICATE_KEY, f"{text} again; the first one is kept"))
        else:
            seen.add(key)
            face, skip = _check_face(sample_key(*key), value, size)
            if skip:
                skipped.append(skip)
            else:
                yield key, face


def _check_face(key: str, value: Any, size: int) -> tuple[np.ndarray, Skip | None]:
    try:
        with np.errstate(over="ignore"):  # becomes infinite and is refused below
            face = np.asarray(value, dtype=np.float32)
    except (ValueError, TypeError):
        return np.empty(0), Skip(key, shard_report.WRONG_EMBEDDING_SIZE, "not a list of numbers")
    if face.shape not in ((1, size), (size,)):
        return face, Skip(key, shard_report.WRONG_EMBEDDING_SIZE, f"shape {list(face.shape)}, not [1, {size}]")
    if not np.isfinite(face).all() or not face.any():
        return face, Skip(key, shard_report.BAD_EMBEDDING)
    return face.reshape(size), None


def _join(
    faces: Mapping[tuple[int, str], np.ndarray],
    captions: Mapping[int, list[str]],
    name_of: Callable[[str], str | None],
    attributes: Mapping[tuple[int, str], dict[str, Any]],
    files: set[str],
    skipped: list[Skip],
) -> Iterator[ReleaseSample]:
    """Yield the complete samples, sorted by key; the others go to `skipped` with the first reason that applies."""
    for (image_id, identity_id), face in sorted(faces.items()):
        key, file_name = sample_key(image_id, identity_id), swapped_file_name(image_id, identity_id)
        name = name_of(identity_id)
        if name is None:
            skipped.append(Skip(key, shard_report.UNKNOWN_IDENTITY, f"{identity_id} is not in {IDENTITY_FILE}"))
        elif image_id not in captions:
            skipped.append(Skip(key, shard_report.MISSING_CAPTIONS, f"image {image_id} has no caption"))
        elif file_name not in files:
            skipped.append(Skip(key, shard_report.MISSING_IMAGE, file_name))
        else:
            yield ReleaseSample(
                image_id=image_id,
                identity_id=identity_id,
                identity_name=name,
                captions=tuple(captions[image_id][:CAPTIONS_PER_IMAGE]),
                file_name=file_name,
                face=face,
                attributes=attributes.get((image_id, identity_id), {}),
            )


def _find_features(coco: Location, name: str) -> Location:
    """Find the file below `coco` without walking through the folders of images."""
    image_folders = {files.images for files in SPLITS.values()}
    left = [coco]
    while left:
        folder = left.pop()
        entries = locations.list_folder(folder)
        if locations.Entry(name, False) in entries:
            return folder / name
        left += [
            folder / entry.name for entry in reversed(entries) if entry.is_folder and entry.name not in image_folders
        ]
    raise ReleaseError(f"the release lacks {name} in {coco} or below; it holds the face embeddings and is the split")


def _load_names(root: Location, required: bool) -> Callable[[str], str | None]:
    """Return the look-up of names: without `required` an unknown identity is called by its id."""
    candidates = [
        root / IDENTITY_FOLDER / IDENTITY_FILE,
        root / IDENTITY_FILE,
        *(root / entry.name / IDENTITY_FILE for entry in locations.list_folder(root) if entry.is_folder),
    ]
    path = next((path for path in candidates if locations.is_file(path)), None)
    if path is None and required:
        raise ReleaseError(
            f"the release lacks {IDENTITY_FOLDER}/{IDENTITY_FILE} with the people's names; "
            "add it, or pack without names with --names optional"
        )
    names = release_files.read_identity_names(path) if path else {}
    return names.get if required else lambda identity_id: names.get(identity_id, identity_id)


def _load_attributes(root: Location) -> dict[tuple[int, str], dict[str, Any]]:
    path = root / ATTRIBUTES_FILE
    if not locations.is_file(path):
        return {}
    parsed = ((parse_key(key), value) for key, value in release_files.read_attributes(path).items())
    return {key: value for key, value in parsed if key is not None}
