"""A small COCO and a folder of identities, drawn, and a face engine that knows where the drawn faces are.

The engine stands in for a face pack: it recognises a picture by its pixels and answers with the landmarks it was drawn
with; embeddings are a real function of the aligned pixels, so that verification and retries mean something. It is
importable, because the worker processes are spawned.
"""

import hashlib
import io
import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
from PIL import Image

from open_clip_idplugin.faces import Face, load_picture
from open_clip_idplugin.faces.alignment import align_face
from webdataset_tools import marking
from webdataset_tools.faceswap.blend import BlendSwapper
from webdataset_tools.faceswap.swappers import FaceInPicture, SwapperSettings
from webdataset_tools.miniature.drawing import draw_face
from webdataset_tools.miniature.head_frame import FacePose
from webdataset_tools.miniature.people import sample_person
from webdataset_tools.miniature.scenes import draw_scene, sample_scene

SPECIAL_NAMES = ['Ann "Nan" O\'Hara', "A/B Smith", "Ярослава Ёлкина", "山田 太郎", "Ze, the Great"]
# Blended faces of the stand-in engine's people are often only nearly like the identity: what passes is not the subject here.
LENIENT = {
    "margin": -0.6,
    "min_similarity": -1.0,
    "max_original": 2.0,
    "min_face": 20,
    "match": "gender",
    "unknown": "skip",
    "workers": 1,
    "people_per_image": 3,
    "contexts": 2,
    "shares": "50,25,25",
    "checks": "none",
}
_BASIS = np.random.default_rng(5).standard_normal((14 * 14 * 3, 64)).astype(np.float32)


@dataclass
class World:
    """Folders `coco` and `people`, the engine, and which picture shows whom."""

    root: Path
    landmarks: dict[str, list] = field(default_factory=dict)
    genders: dict[str, str] = field(default_factory=dict)

    @property
    def coco(self) -> Path:
        return self.root / "coco"

    @property
    def people(self) -> Path:
        return self.root / "vggface2" / "train"

    def engine(self) -> "partial[DrawnFaceEngine]":
        return partial(DrawnFaceEngine, str(self.root / "landmarks.json"))

    def know(self, content: bytes, *faces) -> None:
        """Tell the engine which faces (drawn, with landmarks and box) a picture holds."""
        self.landmarks[digest(load_picture(content))] = [
            [f.landmarks.tolist(), np.asarray(f.box).tolist()] for f in faces
        ]
        (self.root / "landmarks.json").write_text(json.dumps(self.landmarks))


class DrawnFaceEngine:
    """Answers with the drawn landmarks; embeds a coarse picture of the inner face."""

    model_id = "drawn-1"

    def __init__(self, path: str) -> None:
        self.known = json.loads(Path(path).read_text())

    def detect(self, picture: np.ndarray) -> list[Face]:
        faces = []
        for landmarks, box in self.known.get(digest(picture), []):
            points = np.array(landmarks, np.float32)
            crop = self.crop_at(picture, box, points)
            faces.append(Face(np.array(box, np.float32), points, 0.9, crop, self.embed_crops([crop])[0]))
        return faces

    def crop_at(self, picture, box, landmarks) -> "np.ndarray | None":
        return align_face(picture, landmarks, 112)

    def embed_crops(self, crops) -> np.ndarray:
        rows = []
        for crop in crops:
            inner = cv2.resize(crop[34:104, 24:88], (14, 14), interpolation=cv2.INTER_AREA).astype(np.float32)
            flat = (inner - inner.mean((0, 1))).reshape(-1)  # without the tone, which a swap takes from the target
            vector = flat @ _BASIS
            rows.append(vector / max(np.linalg.norm(vector), 1e-6))
        return np.stack(rows).astype(np.float32)


class Mute:
    """A swapper that changes nothing: no result can be recognised as the identity."""

    digital_source_type = marking.COMPOSITE_SYNTHETIC

    def swap(self, target: FaceInPicture, source: FaceInPicture) -> np.ndarray:
        return target.picture


class Picky(BlendSwapper):
    """Refuses half of the photos, so that others must be tried."""

    def swap(self, target: FaceInPicture, source: FaceInPicture) -> np.ndarray:
        if int(digest(source.picture), 16) % 2:
            raise ValueError("not this one")
        return super().swap(target, source)


def create_mute(settings: SwapperSettings) -> Mute:
    return Mute()


def create_picky(settings: SwapperSettings) -> Picky:
    return Picky()


def digest(picture: np.ndarray) -> str:
    return hashlib.sha256(picture.tobytes() + str(picture.shape).encode()).hexdigest()


def jpeg(picture: np.ndarray, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", **{"quality": 95, **options})
    return stream.getvalue()


def damaged(kind: str, content: bytes) -> bytes:
    """Return a picture file as it comes from elsewhere: damaged, or of an unusual kind."""
    image = Image.open(io.BytesIO(content))
    stream = io.BytesIO()
    if kind == "truncated":
        return content[: len(content) // 2]
    if kind == "bomb":
        stream.write(b"BM" + bytes(8) + (54).to_bytes(4, "little") + (40).to_bytes(4, "little"))
        stream.write((60_000).to_bytes(4, "little") * 2 + b"\x01\x00\x18\x00" + bytes(24))
    elif kind == "cmyk":
        image.convert("CMYK").save(stream, "JPEG")
    elif kind == "grey16":
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(stream, "PNG")
    elif kind == "rgba":
        image.convert("RGBA").save(stream, "PNG")
    elif kind == "animated":
        image.save(stream, "GIF", save_all=True, append_images=[image.rotate(90)])
    elif kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        image.rotate(90, expand=True).save(stream, "JPEG", exif=exif, quality=95)
    return stream.getvalue()


def write_world(root: Path, train: int = 6, val: int = 6, people: int = 12, photos: int = 3) -> World:
    """Draw COCO scenes of one person (val2017's ids lie behind train2017's) and people with portraits."""
    world = World(root)
    for subset, first, count in (("train2017", 0, train), ("val2017", 1000, val)):
        folder = world.coco / subset
        folder.mkdir(parents=True, exist_ok=True)
        (world.coco / "annotations").mkdir(exist_ok=True)
        images, instances, captions = [], [], []
        for number in range(first, first + count):
            body = sample_person(number, "train")
            drawn = draw_scene(sample_scene(number, "plain"), body, size=192)
            image_id, name = number + 1, f"{number + 1:012d}.jpg"
            content = jpeg(drawn.picture)
            (folder / name).write_bytes(content)
            world.know(content, SimpleNamespace(landmarks=drawn.landmarks, box=drawn.face_box))
            images.append({"id": image_id, "file_name": name, "width": 192, "height": 192})
            x0, y0, x1, y1 = (float(v) for v in drawn.person_box)
            box = [x0, y0, x1 - x0, y1 - y0]
            instances.append({"id": image_id, "image_id": image_id, "category_id": 1, "iscrowd": 0, "bbox": box})
            instances.append({"id": 9000 + image_id, "image_id": image_id, "category_id": 37, "bbox": [0, 0, 5, 5]})
            noun = "woman" if body.gender == "f" else "man"
            for turn in range(6):
                words = f"A {noun} stands in scene {image_id}, seen {turn}."
                captions.append({"id": len(captions), "image_id": image_id, "caption": words})
        categories = [{"id": 1, "name": "person"}, {"id": 37, "name": "sports ball"}]
        write_json(world, "instances", subset, {"images": images, "annotations": instances, "categories": categories})
        write_json(world, "captions", subset, {"info": {}, "licenses": [], "images": images, "annotations": captions})
    world.people.mkdir(parents=True)
    rows = ["Class_ID, Name, Sample_Num, Flag, Gender"]
    for number in range(people):
        person = sample_person(number, "test")
        folder = world.people / person.identity_id
        folder.mkdir()
        for photo in range(photos):
            pose = FacePose(yaw=4.0 * photo - 4, smile=0.2, light=0.1 * photo)
            drawn = draw_face(person, pose, size=160, zoom=0.6)
            content = jpeg(drawn.picture)
            (folder / f"{photo + 1:04d}_01.jpg").write_bytes(content)
            world.know(content, SimpleNamespace(landmarks=drawn.landmarks, box=drawn[2]))
        name = SPECIAL_NAMES[number] if number < len(SPECIAL_NAMES) else person.name.replace(" ", "_")
        quoted = name.replace('"', '""')
        rows.append(f'{person.identity_id}, "{quoted}", {photos}, 1, {person.gender}')
        world.genders[person.identity_id] = person.gender
    (world.people.parent / "identity_meta.csv").write_text("\n".join(rows) + "\n")
    return world


def read_json(world: World, kind: str, subset: str) -> dict:
    return json.loads((world.coco / "annotations" / f"{kind}_{subset}.json").read_text())


def write_json(world: World, kind: str, subset: str, content: dict) -> None:
    (world.coco / "annotations" / f"{kind}_{subset}.json").write_text(json.dumps(content))
