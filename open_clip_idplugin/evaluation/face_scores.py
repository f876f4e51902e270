"""Face scores of images: faces found in the searched images + a person's face -> scores, alone or fused with a context.

Role: detected faces -> similarities on demand (see `metrics.Scores`), alone and fused with those of texts or pictures.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from open_clip_idplugin.command_line.devices import AUTO, resolve_device
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.evaluation.metrics import Array, CosineScores, as_features
from open_clip_idplugin.faces.calibration import Calibration, assumed_calibration
from open_clip_idplugin.queries.fusion import RECIPROCAL_RANK, Fusion


@dataclass(frozen=True)
class DetectedFaces:
    """The faces found in the searched images.

    embeddings: [M, D] float32 unit rows; image_of_face: [M] int; n_images: also those without a face
    heights: [M] float32 in pixels of the image, empty where not known
    calibration: of the face model; without one ArcFace's scale is assumed
    """

    embeddings: np.ndarray
    image_of_face: np.ndarray
    n_images: int
    heights: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    calibration: Calibration = field(default_factory=lambda: assumed_calibration(""))

    @classmethod
    def from_lists(
        cls,
        faces: Sequence[Sequence[np.ndarray]],
        size: int,
        heights: Sequence[Sequence[float]] | None = None,
        calibration: Calibration | None = None,
    ) -> "DetectedFaces":
        """From one list of embeddings [size] per image, empty where nothing was found; heights in the same form."""
        owners = [image for image, found in enumerate(faces) for _ in found]
        rows = [embedding for found in faces for embedding in found]
        embeddings = np.stack(rows).astype(np.float32) if rows else np.zeros((0, size), np.float32)
        pixels = np.array([height for found in heights or () for height in found], np.float32)
        known = assumed_calibration("") if calibration is None else calibration
        return cls(embeddings, np.array(owners, dtype=np.int64), len(faces), pixels, known)

    @property
    def detected(self) -> np.ndarray:
        """[n_images] bool: whether a face was found in the image."""
        return np.bincount(self.image_of_face, minlength=self.n_images) > 0

    @property
    def largest(self) -> np.ndarray:
        """[n_images] float32: the height of the tallest face, NaN without one or where heights are not known."""
        tallest = np.full(self.n_images, -np.inf, np.float32)
        if len(self.heights):
            np.maximum.at(tallest, self.image_of_face, self.heights)
        return np.where(np.isfinite(tallest), tallest, np.nan).astype(np.float32)

    def take(self, images: Sequence[int]) -> "DetectedFaces":
        """The faces of these images, which are numbered anew in this order."""
        number = np.full(self.n_images, -1, np.int64)
        number[np.asarray(images, np.int64)] = np.arange(len(images))
        kept = number[self.image_of_face] >= 0
        heights = self.heights[kept] if len(self.heights) else self.heights
        owners = number[self.image_of_face[kept]]
        return DetectedFaces(self.embeddings[kept], owners, len(images), heights, self.calibration)


class FaceScores:
    """Cosine of a query face and the best face of every image; rows are query_faces [R, D]. See `metrics.Scores`.

    unseen: the cosine of images in which no face was found.
    """

    def __init__(
        self, query_faces: Array, faces: DetectedFaces, unseen: float, device: str | torch.device = AUTO
    ) -> None:
        device = resolve_device(device)
        self._queries = as_features(query_faces, "query faces", device)
        self.n_rows, self.n_images, self._unseen = len(self._queries), faces.n_images, unseen
        if faces.embeddings.shape[1] != self._queries.shape[1]:
            lengths = f"{self._queries.shape[1]} and {faces.embeddings.shape[1]}"
            raise IdClipError(f"query and detected faces have {lengths} numbers; embed both with the same face model")
        # The first faces of all images make one dense matrix. Further ones come in rounds of one face an image at most:
        # the second faces of all images that have one, the third ones, ...
        position = _position_within(faces.image_of_face)
        first = np.zeros((faces.n_images, faces.embeddings.shape[1]), np.float32)
        first[faces.image_of_face[position == 0]] = faces.embeddings[position == 0]
        self._first = as_features(first, "detected faces", device)
        self.seen = torch.from_numpy(faces.detected).to(device)  # [n_images] bool
        self._rounds: list[tuple[Tensor, Tensor]] = []
        for number in range(1, int(position.max(initial=0)) + 1):
            chosen = position == number
            images = torch.from_numpy(faces.image_of_face[chosen]).to(device)
            self._rounds.append((as_features(faces.embeddings[chosen], "detected faces", device), images))

    def block(self, start: int, stop: int) -> Tensor:
        """See `metrics.Scores`."""
        return self.rows(torch.arange(start, stop, device=self._queries.device))

    def rows(self, indices: Tensor) -> Tensor:
        """Similarities [len(indices), n_images] of these query faces."""
        queries = self._queries[indices]
        best = queries @ self._first.T
        for embeddings, images in self._rounds:
            best.index_copy_(1, images, torch.maximum(best.index_select(1, images), queries @ embeddings.T))
        return best.masked_fill_(~self.seen, self._unseen)


class FusedScores:
    """Context and face fused; row r is context row `row_of_text[r]` with face row `row_of_face[r]`. See `metrics.Scores`."""

    def __init__(
        self,
        contexts: CosineScores,
        faces: FaceScores,
        row_of_text: np.ndarray,
        row_of_face: np.ndarray,
        fusion: Fusion,
    ) -> None:
        if contexts.n_images != faces.n_images:
            counts = f"{contexts.n_images} images and detected faces of {faces.n_images}"
            raise IdClipError(f"there are features of {counts}; give both for the same images")
        self._contexts, self._faces, self._fusion = contexts, faces, fusion
        self._text_rows, self._face_rows = torch.from_numpy(row_of_text), torch.from_numpy(row_of_face)
        self.n_rows, self.n_images = len(row_of_text), contexts.n_images

    def parts(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Similarities of the context and of the face, each [stop - start, n_images]."""
        return self._contexts.rows(self._text_rows[start:stop]), self._faces.rows(self._face_rows[start:stop])

    def block(self, start: int, stop: int) -> Tensor:
        """See `metrics.Scores`."""
        return self.fuse(*self.parts(start, stop), self._fusion)

    def fuse(self, context: Tensor, face: Tensor, fusion: Fusion) -> Tensor:
        """What `parts` gave, fused by any rule: [rows, n_images] float32."""
        if fusion.rule != RECIPROCAL_RANK:
            return fusion.fuse(context, face, self._faces.seen)
        fused = fusion.fuse(context.cpu().numpy(), face.cpu().numpy(), self._faces.seen.cpu().numpy())
        return torch.from_numpy(fused).to(context.device, torch.float32)


def _position_within(groups: np.ndarray) -> np.ndarray:
    """0 for the first entry of every group, 1 for its second, ..."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    starts = np.searchsorted(ordered, ordered)
    position = np.empty(len(groups), np.int64)
    position[order] = np.arange(len(groups)) - starts
    return position
