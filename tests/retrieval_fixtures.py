"""Tiny models, drawn pictures and shards for the tests of index and service."""

import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PLAIN = "ViT-retrieval-tiny"
IDENTITY = "IdCLIP-ViT-retrieval-tiny"
FACE_DIM = 16
WIDTH = 32

_CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": WIDTH, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": WIDTH, "heads": 2, "layers": 2},
}


@dataclass(frozen=True)
class TinyModels:
    """Checkpoint files of a plain CLIP and of an IdCLIP with the same towers."""

    plain: Path
    identity: Path
    prompted: Path  # with visual prompts: another image tower

    def load(self, prompted: bool = False):
        from open_clip_idplugin.checkpoints.loading import load_model

        return load_model(IDENTITY, str(self.prompted if prompted else self.identity))

    def load_plain(self):
        from open_clip_idplugin.checkpoints.loading import load_model

        return load_model(PLAIN, str(self.plain))


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory) -> TinyModels:
    import open_clip
    import torch

    import open_clip_idplugin  # noqa: F401  (registers with open_clip)

    folder = tmp_path_factory.mktemp("tiny_models")
    configs = folder / "configs"
    configs.mkdir()
    identity_cfg = {"face_dim": FACE_DIM, "adaptor_hidden": 32}
    (configs / f"{PLAIN}.json").write_text(json.dumps(_CONFIG))
    (configs / f"{IDENTITY}.json").write_text(
        json.dumps({**_CONFIG, "custom_text": True, "identity_cfg": identity_cfg})
    )
    open_clip.add_model_config(configs)
    paths = TinyModels(folder / "plain.pt", folder / "identity.pt", folder / "prompted.pt")
    torch.manual_seed(0)
    torch.save(open_clip.create_model(PLAIN).state_dict(), paths.plain)
    for path, prompts in ((paths.identity, 0), (paths.prompted, 2)):
        model = open_clip.create_model(
            IDENTITY, pretrained=str(paths.plain), identity_cfg={**identity_cfg, "visual_prompts": prompts}
        )
        torch.save(model.state_dict(), path)
    return paths


@dataclass(frozen=True)
class DrawnImage:
    """A picture as it goes into a shard."""

    key: str
    jpeg: bytes
    caption: str
    record: dict


def draw_images(count: int, seed: int = 0) -> list[DrawnImage]:
    rng = np.random.default_rng(seed)
    return [_draw(rng, row) for row in range(count)]


def _draw(rng: np.random.Generator, row: int) -> DrawnImage:
    blocks = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    picture = Image.fromarray(blocks).resize((48, 40), Image.Resampling.NEAREST)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=95)
    identity = f"n{row % 5:06d}"
    record = {
        "image_id": row,
        "identity_id": identity,
        "identity_name": f"Person {row % 5}",
        "captions": [f"picture {row}", "another caption"],
        "synthetic": True,
        "attributes": {"stratum": "dark" if row % 2 else "plain"},
    }
    return DrawnImage(f"{row}_{identity}", stream.getvalue(), f"picture number {row} of coloured blocks", record)


def write_shard(path: Path, images: list[DrawnImage], captions: bool = True, records: bool = True) -> None:
    with tarfile.open(path, "w") as tar:
        for image in images:
            _add(tar, f"{image.key}.face.jpg", b"not the picture")  # other members must be left alone
            _add(tar, f"{image.key}.jpg", image.jpeg)
            if records:
                _add(tar, f"{image.key}.json", json.dumps(image.record).encode())
            if captions:
                _add(tar, f"{image.key}.txt", image.caption.encode())


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def encode_jpeg(loaded, jpeg: bytes) -> np.ndarray:
    """Unit image embedding [D] float32 by the model itself."""
    import torch

    with torch.no_grad():
        pixels = loaded.preprocess(Image.open(io.BytesIO(jpeg)))[None]
        return loaded.model.encode_image(pixels, normalize=True)[0].numpy()
