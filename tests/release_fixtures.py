"""A small COCO-PFS release on disk, written without the product's code, and fake face engines.

`write_release` follows the published layout exactly: photographs are noise, people are numbers, so that it takes
milliseconds. Engines are importable functions because the packing workers are spawned.
"""

import io
import json
import os
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

SPLIT_FILES = {
    "train": ("coco_train_swapped", "captions_train2017.json", "features_train_small_faceswap.json"),
    "val": ("coco_val_swap_new", "captions_val2017.json", "features_new_val_small_faceswap.json"),
    "test": ("coco_val_swap_new", "captions_val2017.json", "features_new_entities_test_small_faceswap.json"),
}


def picture_bytes(seed: int, size: tuple[int, int] = (96, 64), format: str = "JPEG", mode: str = "RGB") -> bytes:
    """Return an encoded picture of coarse noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).resize(size).convert(mode).save(stream, format)
    return stream.getvalue()


def face_embedding(identity: int, size: int = 512) -> list[float]:
    vector = np.random.default_rng([7, identity]).standard_normal(size)
    return (vector / np.linalg.norm(vector)).tolist()


def write_release(
    folder: Path,
    split: str = "train",
    scenes: int = 6,
    people: Sequence[str] = ("n000001", "n000002", "n000003"),
    captions_per_scene: int = 6,
    first_image_id: int = 9,
    photos: int = 0,
) -> Path:
    """Write one split with every person in every scene; return the release's folder."""
    images_name, captions_name, features_name = SPLIT_FILES[split]
    coco = folder / "coco_dataset"
    images = coco / images_name
    images.mkdir(parents=True, exist_ok=True)
    (coco / "annotations").mkdir(exist_ok=True)
    features, annotations = {}, []
    for scene in range(scenes):
        image_id = first_image_id + 100 * scene
        for number in range(captions_per_scene):
            annotations.append(
                {"id": len(annotations), "image_id": image_id, "caption": f" Scene {scene}, words {number}. \n"}
            )
        for index, person in enumerate(people):
            name = f"{image_id:012d}.jpg_{person}.jpg"
            (images / name).write_bytes(picture_bytes(1000 * scene + index))
            features[f"{image_id}_{person}"] = [face_embedding(index)]
    (coco / "annotations" / captions_name).write_text(json.dumps({"images": [], "annotations": annotations}))
    (coco / features_name).write_text(json.dumps(features))
    write_names(folder, {person: f"Person_Number_{index}" for index, person in enumerate(people)})
    for index, person in enumerate(people):
        for number in range(photos):
            photo = photo_folder(folder) / person / f"{number + 1:04d}_01.jpg"
            photo.parent.mkdir(parents=True, exist_ok=True)
            photo.write_bytes(picture_bytes(90_000 + 10 * index + number, (80, 80)))
    return folder


def write_names(folder: Path, names: dict[str, str]) -> None:
    path = folder / "vggface_test_kaggle" / "identity_meta.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{identity}, {name}, 12, 1, f" for identity, name in names.items()]
    path.write_text("Class_ID, Name, Sample_Num, Flag, Gender\n" + "\n".join(rows) + "\n", encoding="utf-8")


def photo_folder(folder: Path) -> Path:
    return folder / "vggface_test_kaggle" / "photos"


def features_path(folder: Path, split: str = "train") -> Path:
    return folder / "coco_dataset" / SPLIT_FILES[split][2]


def images_path(folder: Path, split: str = "train") -> Path:
    return folder / "coco_dataset" / SPLIT_FILES[split][0]


FACELESS_WIDTH = 50  # the fake engine finds no face in a picture of this width


class FakeFaceEngine:
    """Takes the picture's top left corner for the face; may wait, so that a build can be killed in its middle."""

    def __init__(self, seconds: float = 0.0):
        self.seconds = seconds

    def the_crop(self, picture: np.ndarray, policy: str = "largest") -> np.ndarray:
        from open_clip_idplugin.faces import NoFace

        assert picture.dtype == np.uint8 and picture.shape[2] == 3 and policy == "largest"
        time.sleep(self.seconds)
        if picture.shape[1] == FACELESS_WIDTH:
            raise NoFace("no face was found in the picture")
        crop = Image.fromarray(picture).crop((0, 0, 32, 32)).resize((112, 112))
        return np.asarray(crop)


def load_fake_engine(log_folder: str | None = None, seconds: float = 0.0) -> FakeFaceEngine:
    if log_folder:  # one file a load
        os.close(tempfile.mkstemp(prefix=f"{os.getpid()}-", dir=log_folder)[0])
    return FakeFaceEngine(seconds)


def fake_engine(**options) -> partial:
    return partial(load_fake_engine, **options)


def corner_crop(content: bytes) -> bytes:
    """What the fake engine makes of an encoded picture."""
    stream = io.BytesIO()
    picture = Image.open(io.BytesIO(content)).convert("RGB").crop((0, 0, 32, 32)).resize((112, 112))
    picture.save(stream, "JPEG", quality=95, subsampling=0)
    return stream.getvalue()
