"""A folder of pictures with toy faces, for the tests that index pictures and their faces in one pass."""

import os
from pathlib import Path

import numpy as np
from face_pack_fixtures import toy_picture, write_pack
from PIL import Image

from open_clip_idplugin.faces.finding import FaceFinding
from open_clip_idplugin.retrieval.index.partitions import EmbedOptions
from open_clip_idplugin.retrieval.index.picture_manifest import KnownPicture

CORNERS = {
    "one.png": [(32, 32)],
    "two.png": [(0, 64), (96, 96)],
    "none.png": [],
    "sub/three.png": [(0, 0), (64, 64), (128, 32)],
    "sub/four.png": [(128, 128)],
}
TURNED = "sub/four.png"


def draw(path: Path, corners, shade: int = 0, turned: bool = False) -> None:
    """Write a picture; `shade` makes it another one. `turned`: stored on its side, as EXIF says."""
    pixels = toy_picture(*corners)
    pixels[-8:, :, :] = 90 + shade
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if turned:
        exif[0x0112] = 6
        pixels = np.rot90(pixels)
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, exif=exif)


def draw_collection(root: Path) -> Path:
    for number, (name, corners) in enumerate(CORNERS.items()):
        draw(root / name, corners, number, turned=name == TURNED)
    (root / "broken.jpg").write_bytes(b"\xff\xd8no picture")
    return root


def toy_options(folder: Path, **changes) -> EmbedOptions:
    """Options with a toy face pack in `folder`."""
    if not (folder / "pack").is_dir():
        write_pack(folder / "pack", size=16)
    finding = FaceFinding(f"insightface:{folder / 'pack'}", det_size=192)
    return EmbedOptions(**{"batch_size": 2, "workers": 0, "faces": finding, **changes})


def list_files(root: Path) -> list[KnownPicture]:
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    return [
        KnownPicture(path.relative_to(root).as_posix(), path.stat().st_size, path.stat().st_mtime_ns) for path in paths
    ]


def content_of(index: Path) -> dict[str, tuple[bytes, list]]:
    """Of each picture that is left: its vector, and the boxes and embeddings of its faces; by key."""
    from open_clip_idplugin.retrieval.face_index.reading import load_face_index
    from open_clip_idplugin.retrieval.index_folder.metadata_columns import read_keys
    from open_clip_idplugin.retrieval.index_folder.removed_rows import read_removed

    keys, removed = read_keys(index), set(read_removed(index).tolist())
    vectors = np.concatenate([np.load(path) for path in sorted((index / "img_emb").glob("*.npy"))])
    faces = load_face_index(index, keys)
    found = {}
    for row, key in enumerate(keys):
        if row not in removed:
            shown = [
                (faces.boxes[face].tolist(), np.round(faces.embeddings[face], 5).tolist(), faces.sizes[face].tolist())
                for face in faces.faces_of(row)
            ]
            found[key] = (np.round(vectors[row].astype(np.float32), 3).tolist(), shown)
    return found


def touch_later(path: Path) -> None:
    """Give a file a later time of change, as another write would."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))
