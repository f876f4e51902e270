"""Options of a swap run: the flags of `idclip swap` -> one checked value."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from open_clip_idplugin.command_line.verb_arguments import require_whole_number
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.storage.locations import Place, is_file, is_folder, location
from webdataset_tools.faceswap.face_quality import QualityRules
from webdataset_tools.faceswap.pairing import PairRules
from webdataset_tools.faceswap.swappers import KEEP_SKIN
from webdataset_tools.release import SPLITS
from webdataset_tools.worker_pool import PROCESSES, check_distributor, check_reachable

UNKNOWN = ("skip", "any")
CHECKS = ("photographs", "none")


@dataclass(frozen=True)
class SwapOptions:
    """What to swap and how; see `command.swap` for the meaning of each.

    Raises IdClipError when a value is not allowed.
    """

    coco: Place
    identities: Place
    output: Place
    swapper: str = "blend"
    swapper_model: str | Path | None = None
    keep_skin: float = KEEP_SKIN
    faces: str = "insightface:buffalo_l"
    det_size: int | None = None
    match: str = "gender,age_group"
    unknown: str = "any"
    attributes: Place | None = None
    image_attributes: Place | None = None
    people_per_image: int = 5
    contexts: int = 4
    shares: str = "70,10,20"
    train_images: int | None = None
    val_images: int | None = None
    test_images: int | None = None
    min_face: int = 40
    min_score: float = 0.5
    min_inside: float = 0.7
    photos_per_identity: int = 5
    tries: int = 3
    margin: float | None = None
    min_similarity: float | None = None
    max_original: float | None = None
    checks: str = "photographs"
    max_turn: float = 35.0
    max_covered: float = 0.2
    min_sharpness: float = 0.12
    max_patchiness: float = 5.4
    max_pose: float = 20.0
    max_light: float = 15.0
    max_skin: float = 14.0
    quality: int | None = None
    workers: int = 2
    distributor: str = PROCESSES
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("people_per_image", "contexts", "min_face", "photos_per_identity", "tries", "workers"):
            require_whole_number(f"--{name.replace('_', '-')}", getattr(self, name), 1)
        for name in ("det_size", "train_images", "val_images", "test_images"):
            if getattr(self, name) is not None:
                require_whole_number(f"--{name.replace('_', '-')}", getattr(self, name), 1)
        require_whole_number("--seed", self.seed)
        if self.quality is not None:
            require_whole_number("--quality", self.quality, 1)
            if self.quality > 100:
                raise IdClipError(f"--quality is JPEG's, from 1 to 100, not {self.quality}")
        for name in ("keep_skin", "min_score", "min_inside", "max_covered", "min_sharpness"):
            _check_number(name, getattr(self, name), 0, 1)
        for name in ("max_turn", "max_patchiness", "max_pose", "max_light", "max_skin"):
            _check_number(name, getattr(self, name), 0, 200)
        for name in ("margin", "min_similarity", "max_original"):
            if getattr(self, name) is not None:
                _check_number(name, getattr(self, name), -2, 2)
        if self.unknown not in UNKNOWN:
            raise IdClipError(f"--unknown must be {' or '.join(UNKNOWN)}, not {self.unknown!r}")
        if self.checks not in CHECKS:
            raise IdClipError(f"--checks must be {' or '.join(CHECKS)}, not {self.checks!r}")
        check_distributor(self.distributor)
        for name in ("coco", "identities", "output"):
            check_reachable(location(getattr(self, name)), self.workers, self.distributor)
        for name in ("coco", "identities"):
            if not is_folder(location(getattr(self, name))):
                raise IdClipError(f"there is no folder {getattr(self, name)}; check --{name}")
        for name in ("attributes", "image_attributes"):
            path = getattr(self, name)
            if path is not None and not is_file(location(path)):
                raise IdClipError(f"there is no file {path}; check --{name.replace('_', '-')}")
        _ = self.split_shares  # checks them

    @property
    def quality_rules(self) -> QualityRules | None:
        """Which faces may be swapped; None for all."""
        rules = QualityRules(self.max_turn, self.max_covered, self.min_sharpness, self.max_patchiness)
        return rules if self.checks == "photographs" else None

    @property
    def pair_rules(self) -> PairRules | None:
        """Which photo may be put onto which face; None for any."""
        return PairRules(self.max_pose, self.max_light, self.max_skin) if self.checks == "photographs" else None

    @property
    def matched(self) -> tuple[str, ...]:
        """Names of the attributes that image and identity must share, lower case."""
        return tuple(dict.fromkeys(name.strip().lower() for name in self.match.split(",") if name.strip()))

    @property
    def split_shares(self) -> dict[str, float]:
        """Share of the identities of each split; they sum to 1."""
        try:
            numbers = [float(part) for part in str(self.shares).strip("()[]").split(",")]
        except ValueError:
            numbers = []
        if len(numbers) != len(SPLITS) or min(numbers) < 0 or not 0 < sum(numbers) < float("inf"):
            raise IdClipError(f"--shares must be three numbers for train, val and test, like 70,10,20: {self.shares!r}")
        return {split: number / sum(numbers) for split, number in zip(SPLITS, numbers)}

    def limit(self, split: str) -> int | None:
        """Most COCO images of a split."""
        return {"train": self.train_images, "val": self.val_images, "test": self.test_images}[split]

    def parameters(self) -> dict[str, Any]:
        """Return what shapes the release, as plain JSON values: all but places and who does the work."""
        places = ("coco", "identities", "output", "swapper_model", "attributes", "image_attributes")
        return {name: value for name, value in asdict(self).items() if name not in (*places, "workers", "distributor")}


def _check_number(name: str, value: object, low: float, high: float) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
        raise IdClipError(f"--{name.replace('_', '-')} must be a number from {low} to {high}, not {value!r}")
