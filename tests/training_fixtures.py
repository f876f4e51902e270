"""Tiny shards with people, and a tiny IdCLIP to train on them."""

import io
import json
import logging
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from webdataset_tools.sample_format import Sample, SampleRecord, sample_key, sample_to_members

MODEL = "IdCLIP-ViT-training-test"
PLAIN_MODEL = "ViT-training-test"
FACE_DIM = 16
_TOWERS = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
_IDENTITY = {"custom_text": True, "identity_cfg": {"face_dim": FACE_DIM, "adaptor_hidden": 24, "visual_prompts": 2}}


def add_models(folder: Path) -> None:
    """Register the tiny IdCLIP and its plain counterpart; again is harmless."""
    import open_clip

    from open_clip_idplugin import add_identity_model

    if MODEL in open_clip.list_models():
        return
    for name, config in ((MODEL, _TOWERS | _IDENTITY), (PLAIN_MODEL, _TOWERS)):
        (folder / f"{name}.json").write_text(json.dumps(config))
    add_identity_model(folder / f"{MODEL}.json")
    open_clip.add_model_config(folder / f"{PLAIN_MODEL}.json")


@pytest.fixture(autouse=True, scope="module")
def logging_as_before():
    """The host's setup_logging adds handlers to the root logger and sets the level of every logger there is."""
    handlers = list(logging.root.handlers)
    levels = {name: logging.getLogger(name).level for name in (None, *logging.root.manager.loggerDict)}
    yield
    for handler in set(logging.root.handlers) - set(handlers):
        logging.root.removeHandler(handler)
        handler.close()
    for name in (None, *logging.root.manager.loggerDict):
        logging.getLogger(name).setLevel(levels.get(name, logging.NOTSET))


def make_sample(image_id: int, person: int, face_dim: int = FACE_DIM) -> Sample:
    """A picture of the person's colour over the scene's; five captions that name scene and number."""
    identity = f"n{person:06d}"
    captions = tuple(f"A man in scene {image_id}, words {number}." for number in range(5))
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:20] = np.random.default_rng([1, person]).integers(0, 256, 3)
    pixels[20:] = np.random.default_rng([2, image_id]).integers(0, 256, 3)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    face = np.random.default_rng([3, person]).standard_normal(face_dim).astype(np.float32)
    record = SampleRecord(
        image_id=image_id, identity_id=identity, identity_name=f"Person {person}", captions=captions,
        split="train", file_name="unused.jpg", source="test",
    )  # fmt: skip
    return Sample(sample_key(image_id, identity), stream.getvalue(), captions[0], face, None, record)


def write_shards(
    folder: Path, samples: list[Sample], shards: int = 2, damage: dict[str, dict[str, bytes]] | None = None
):
    """Write the samples in turn over `shards` tars with sizes.json; `damage` replaces members by key. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {}
    for number in range(shards):
        path = folder / f"{number:05d}.tar"
        chosen = samples[number::shards]
        sizes[path.name] = len(chosen)
        with tarfile.open(path, "w") as tar:
            for sample in chosen:
                members = sample_to_members(sample) | (damage or {}).get(sample.key, {})
                for name, content in members.items():
                    entry = tarfile.TarInfo(f"{sample.key}.{name}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
    (folder / "sizes.json").write_text(json.dumps(sizes))
    return folder


def small_world(first_person: int = 0, people: int = 4, scenes: int = 6, face_dim: int = FACE_DIM) -> list[Sample]:
    pairs = [(100 + scene, first_person + person) for scene in range(scenes) for person in range(people)]
    return [make_sample(scene, person, face_dim) for scene, person in pairs]
