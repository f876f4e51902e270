"""Face engines as other packages would bring them: importable by name, also in worker processes that are spawned."""

import os

import numpy as np

from open_clip_idplugin.faces.alignment import cut_box
from open_clip_idplugin.faces.engine import Detection
from open_clip_idplugin.faces.options import EngineOptions

LANDMARKS = np.array([[0.34, 0.46], [0.66, 0.46], [0.5, 0.64], [0.37, 0.82], [0.63, 0.82]], np.float32)


class BrightSquares:
    """Finds the one brightest square of 32 pixels on the 32-pixel grid."""

    def __init__(self, options: EngineOptions):
        self.options = options

    def detect(self, picture: np.ndarray) -> list[Detection]:
        height, width = (side // 32 for side in picture.shape[:2])
        means = picture[: height * 32, : width * 32].reshape(height, 32, width, 32, 3).mean((1, 3, 4))
        row, column = np.unravel_index(means.argmax(), means.shape)
        corner = np.array([column * 32, row * 32], np.float32)
        return [Detection(np.concatenate([corner, corner + 32]), corner + 32 * LANDMARKS, 0.9)]


class MeanColours:
    """Embeds the mean colours of a 2 x 2 grid of its own crop, the bare box."""

    embedding_size = 12
    crop_size = 40
    batch = 4
    fixed_batch = False
    licence = "that of these tests"

    def __init__(self, name: str = ""):
        self.model_id = f"colours:{name or 'plain'}-0123456789ab"

    def align(self, picture: np.ndarray, found: Detection) -> np.ndarray | None:
        return cut_box(picture, found.box, self.crop_size, 0.0)

    def encode(self, crops: list[np.ndarray]) -> np.ndarray:
        grid = np.stack(crops).reshape(len(crops), 2, 20, 2, 20, 3).mean((2, 4))
        return grid.reshape(len(crops), 12).astype(np.float32)


class Both(BrightSquares, MeanColours):
    """Detector and encoder in one object."""

    def __init__(self, name: str, options: EngineOptions):
        BrightSquares.__init__(self, options)
        MeanColours.__init__(self, name)


def pair(name: str, options: EngineOptions) -> tuple[BrightSquares, MeanColours]:
    """A detector and an encoder; in a worker it notes the process where a test wants to know."""
    if folder := os.environ.get("IDCLIP_TEST_PROCESSES"):
        open(os.path.join(folder, str(os.getpid())), "w").close()  # noqa: PTH118, PTH123
    return BrightSquares(options), MeanColours(name)


def encoder(name: str, options: EngineOptions) -> MeanColours:
    """An encoder alone."""
    return MeanColours(name)


def detector(name: str, options: EngineOptions) -> BrightSquares:
    """A detector alone."""
    return BrightSquares(options)


class NearlyAnEncoder(BrightSquares):
    """Lacks most of what an encoder has, and has a size that is none."""

    model_id = "nearly"
    embedding_size = 0

    def encode(self, crops: list[np.ndarray]) -> np.ndarray:
        return np.zeros((len(crops), 3))


def nearly(name: str, options: EngineOptions) -> NearlyAnEncoder:
    """What does not fit."""
    return NearlyAnEncoder(options)


class WrongShapes(Both):
    """Keeps the interface's names and breaks its shapes: `name` says where."""

    def __init__(self, name: str, options: EngineOptions):
        super().__init__("", options)
        self.name = name

    def detect(self, picture: np.ndarray) -> list[Detection]:
        found = super().detect(picture)[0]
        return [Detection(found.box, found.landmarks[:3], 0.9)] if self.name == "landmarks" else [found]

    def align(self, picture: np.ndarray, found: Detection) -> np.ndarray | None:
        return np.zeros((9, 9, 3), np.uint8) if self.name == "crop" else super().align(picture, found)

    def encode(self, crops: list[np.ndarray]) -> np.ndarray:
        return super().encode(crops)[:, :5] if self.name == "rows" else super().encode(crops)


def failing(name: str, options: EngineOptions) -> None:
    """Code from outside may do anything."""
    raise RuntimeError(f"no weights in {name}\nand a second line")


number = 3
