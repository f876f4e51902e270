"""A service for the tests of the search page: an index whose images show people, and a face engine that knows people by hue."""

import colorsys
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from face_index_fixtures import unit, write_face_table
from face_pack_fixtures import REFERENCE
from PIL import Image
from retrieval_fixtures import FACE_DIM, draw_images, write_shard

from open_clip_idplugin.faces.engine import Detection, FaceEngine
from open_clip_idplugin.gallery import Gallery
from open_clip_idplugin.retrieval.face_index.build import add_faces
from open_clip_idplugin.retrieval.index import build as index
from open_clip_idplugin.retrieval.index.embed import EmbedOptions
from open_clip_idplugin.retrieval.index.sources import find_images
from open_clip_idplugin.retrieval.index_folder.metadata_columns import read_keys
from open_clip_idplugin.retrieval.ranking.query_people import People
from open_clip_idplugin.retrieval.service.access import Access
from open_clip_idplugin.retrieval.service.app import create_app

MODEL = "faces by hue"
ADA, GRACE, STRANGER = 0.02, 0.35, 0.7  # hues
ROWS = 30
SIDE = 32  # of a face in a photo, in pixels; faces lie on a grid of that size


def embedding_of(hue: float) -> np.ndarray:
    """Unit vector [FACE_DIM] float32; hues that are far apart have a cosine near 0."""
    angles = 2 * np.pi * (hue - np.arange(FACE_DIM) / FACE_DIM)
    bumps = np.exp(4 * np.cos(angles))
    return unit(bumps - bumps.mean())


def photo_of(*hues: float) -> bytes:
    """JPEG with a row of faces: coloured squares in black frames on grey."""
    picture = np.full((4 * SIDE, 4 * SIDE, 3), 128, np.uint8)
    for number, hue in enumerate(hues):
        y, x = SIDE, SIDE * (1 + number)
        picture[y : y + SIDE, x : x + SIDE] = 0
        picture[y + 4 : y + SIDE - 4, x + 4 : x + SIDE - 4] = np.multiply(colorsys.hsv_to_rgb(hue, 1, 1), 255)
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=95, subsampling=0)
    return stream.getvalue()


class FramedSquares:
    """Detector: every square of the grid with a black frame and a bright middle."""

    def detect(self, picture: np.ndarray) -> list[Detection]:
        found = []
        for y in range(0, picture.shape[0] - SIDE + 1, SIDE):
            for x in range(0, picture.shape[1] - SIDE + 1, SIDE):
                square = picture[y : y + SIDE, x : x + SIDE].astype(int)
                if square[:2].max() < 60 and square[-2:].max() < 60 and square[8:-8, 8:-8].max() > 150:
                    box = np.array([x, y, x + SIDE, y + SIDE], np.float32)
                    found.append(Detection(box, np.float32(REFERENCE * SIDE + [x, y]), 0.9))
        return found


class Hues:
    """Encoder: the hue of a crop's middle."""

    model_id, embedding_size, crop_size, batch, fixed_batch = MODEL, FACE_DIM, 112, 8, False

    def encode(self, crops: list[np.ndarray]) -> np.ndarray:
        colours = [crop[50:62, 50:62].reshape(-1, 3).mean(axis=0) / 255 for crop in crops]
        return np.stack([embedding_of(colorsys.rgb_to_hsv(*colour)[0]) for colour in colours])


@dataclass(frozen=True)
class PageWorld:
    """Ada is in rows 0-9, Grace in 5-14, a stranger in 15-24, nobody in 25-29; Ada and Grace can be enrolled."""

    folder: Path
    loaded: object

    def gallery(self, name: str, **hues: float) -> Gallery:
        """A new gallery with these people."""
        gallery = Gallery(self.folder / f"{name}.sqlite")
        for person, hue in hues.items():
            gallery.enroll(person.replace("_", " "), embedding_of(hue), MODEL, crops=[photo_of(hue)])
        return gallery

    def app(self, gallery: Gallery | None, engine: bool = True, loaded: object = None, **options):
        people = People(gallery, FaceEngine(FramedSquares(), Hues()) if engine else None)
        indices = {"archive": self.folder / "archive", "bare": self.folder / "bare"}
        return create_app(indices, loaded or self.loaded, people, **{"access": Access(), **options})


@pytest.fixture(scope="module")
def page_world(tiny_models, tmp_path_factory) -> PageWorld:
    import shutil

    folder = tmp_path_factory.mktemp("page")
    write_shard(folder / "0.tar", draw_images(ROWS))
    source = find_images(str(folder / "0.tar"))
    index.build_index(source, tiny_models.load_plain(), folder / "bare", EmbedOptions(8, 0))
    shutil.copytree(folder / "bare", folder / "archive")
    shown = [[ADA] * (row < 10) + [GRACE] * (5 <= row < 15) + [STRANGER] * (15 <= row < 25) for row in range(ROWS)]
    faces = {
        key: [embedding_of(hue) for hue in hues] for key, hues in zip(read_keys(folder / "archive"), shown, strict=True)
    }
    add_faces(folder / "archive", write_face_table(folder / "table", faces, MODEL, FACE_DIM))
    return PageWorld(folder, tiny_models.load())
