"""The drawn world that recipes are compared in: a size and a seed -> packed shards of three splits.

Role: `idclip miniature` and `idclip shards`, each of which goes on where it was stopped. Validation is as large as test:
recipes are chosen on it, and a choice among dozens of them from few queries would be a choice of luck.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage.file_hash import file_sha256

FACES = "insightface:miniature"
DETECTOR_SIDE = 192  # the drawn scenes are 192 pixels wide
SAMPLES_PER_SHARD = 500
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class World:
    """Where shards and identity photos lie: `folder/shards/<split>`, `folder/release`."""

    folder: Path

    @property
    def release(self) -> Path:
        """The COCO-PFS-like release."""
        return self.folder / "release"

    @property
    def photos(self) -> Path:
        """Identity photos, one folder a person."""
        return self.release / "vggface_test_kaggle" / "photos"

    def shards(self, split: str) -> Path:
        """Shards of a split."""
        return self.folder / "shards" / split

    def digest(self, split: str) -> str:
        """SHA-256 over the shards of a split; raises IdClipError where there are none."""
        return _digest_of(self.shards(split))


@cache
def _digest_of(folder: Path) -> str:
    tars = sorted(folder.glob("*.tar"))
    if not tars:
        raise IdClipError(f"{folder} holds no shards; run the same command again to make them")
    return hashlib.sha256("\n".join(f"{tar.name} {file_sha256(tar)}" for tar in tars).encode()).hexdigest()


def make_world(world: World, size: str, seed: int, workers: int) -> None:
    """Draw the release and pack its splits, as far as they are not there."""
    from webdataset_tools.miniature.command import miniature
    from webdataset_tools.miniature.release_plan import SIZES
    from webdataset_tools.shards import shards

    if size not in SIZES:
        raise IdClipError(f"there is no world of the size {size!r}; choose from {', '.join(SIZES)}")
    test = SIZES[size].test
    miniature(str(world.release), size, val_images=test.images, val_people=test.people, seed=seed, workers=workers)
    for split in SPLITS:
        shards(
            str(world.release),
            split,
            str(world.shards(split)),
            photos=str(world.photos),
            faces=FACES,
            det_size=DETECTOR_SIDE,
            samples_per_shard=SAMPLES_PER_SHARD,
            workers=workers,
        )
