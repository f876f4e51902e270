"""Index opening: an index folder + a loaded model -> `OpenedIndex`, which a query is answered from.

The folder may be one that `idclip index` made or one of clip-retrieval's own; the first kind is refused when its image tower is
not the model's. Needs faiss and pyarrow, and no clip-retrieval.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import faiss
import torch
from PIL import Image

from open_clip_idplugin.checkpoints.fingerprint import fingerprint_image_tower
from open_clip_idplugin.checkpoints.loading import LoadedModel
from open_clip_idplugin.pictures import DECODER_VERSION, load_image, pictures_read_otherwise
from open_clip_idplugin.pictures.thumbnails import Thumbnails
from open_clip_idplugin.queries.query_encoder import QueryEncoder
from open_clip_idplugin.queries.towers import Towers
from open_clip_idplugin.retrieval.face_index.reading import FOLDER as FACES
from open_clip_idplugin.retrieval.face_index.reading import FaceIndex, load_face_index
from open_clip_idplugin.retrieval.index_folder.card import IndexCard, IndexMismatch, load_card, require_same_tower
from open_clip_idplugin.retrieval.index_folder.faiss_files import open_index
from open_clip_idplugin.retrieval.index_folder.metadata_columns import KEY
from open_clip_idplugin.retrieval.index_folder.removed_rows import RemovedRows
from open_clip_idplugin.retrieval.index_folder.row_metadata import RowMetadata
from open_clip_idplugin.retrieval.index_folder.vectors import StoredVectors
from open_clip_idplugin.retrieval.ranking.joint_encoding import JointEncoder

_log = logging.getLogger(__name__)


@dataclass
class OpenedIndex:
    """One index and the model that asks it; names that clip-retrieval's resources have too mean the same here."""

    device: str
    model: Towers
    preprocess: Callable[[Image.Image], torch.Tensor]
    metadata_provider: RowMetadata
    image_index: faiss.Index
    text_index: faiss.Index | None
    encoder: QueryEncoder
    thumbnails: Thumbnails
    rows: int
    card: IndexCard | None
    removed: RemovedRows
    faces: FaceIndex | None
    vectors: StoredVectors
    text_vectors: StoredVectors | None


@dataclass(frozen=True)
class _Preprocess:
    """A picture that clip-retrieval opened -> pixels, decoded as the indexed pictures were."""

    preprocess: Callable[[Image.Image], torch.Tensor]

    def __call__(self, picture: Image.Image) -> torch.Tensor:
        return self.preprocess(load_image(picture))


class IndexOpener:
    """Opens indices for one model, with what they share."""

    def __init__(self, loaded: LoadedModel, mmap: bool = False) -> None:
        """`loaded` must keep float32 weights (fp32, amp or amp_bf16).

        mmap: leave the vectors on the disk and let the system read what a search touches.
        """
        self._loaded = loaded
        self._mmap = mmap
        self._towers, self._encoder = Towers(loaded), JointEncoder(loaded)
        self._tower = fingerprint_image_tower(loaded.model)

    def __call__(self, folder: Path) -> OpenedIndex:
        """Open an index folder.

        Raises:
            IndexMismatch: it is no index, is damaged, or was made with another image tower.
        """
        return _open_index(folder, self._loaded, self._tower, self._towers, self._encoder, self._mmap)


def _open_index(
    folder: Path, loaded: LoadedModel, tower: str, towers: Towers, encoder: QueryEncoder, mmap: bool
) -> OpenedIndex:
    card = load_card(folder) if folder.is_dir() else None
    if card is not None:
        require_same_tower(card, tower, loaded.name, folder)
        others = pictures_read_otherwise(card.decoder)
        if others is not None:
            _log.warning(
                "'%s' was made with version %d of the picture decoder, and this is version %d: its pictures %s are "
                "found less well than they could be, until the index is made again",
                folder,
                card.decoder,
                DECODER_VERSION,
                others,
            )
    image_index = open_index(folder / "image.index", mmap)
    if image_index is None:
        raise IndexMismatch(
            f"'{folder}' holds no image.index: make an index with `idclip index`, or name another folder"
        )
    if card is None:
        _log.warning(
            "'%s' has no index card, so that nobody can tell whether %s fits it: it must have been made with the same "
            "image tower",
            folder,
            loaded.name,
        )
    metadata = RowMetadata(folder)
    rows = int(image_index.ntotal)
    if len(metadata) != rows:
        raise IndexMismatch(f"'{folder}' is damaged: {rows} vectors, but {len(metadata)} rows of metadata")
    text_index = open_index(folder / "text.index", mmap)
    return OpenedIndex(
        device=str(loaded.device),
        model=towers,
        preprocess=_Preprocess(loaded.preprocess),
        metadata_provider=metadata,
        image_index=image_index,
        text_index=text_index,
        encoder=encoder,
        thumbnails=Thumbnails(folder, card.partitions if card is not None else [rows]),
        rows=rows,
        card=card,
        removed=RemovedRows(folder, rows),
        faces=_read_faces(folder, metadata),
        vectors=StoredVectors(folder / "img_emb", image_index),
        text_vectors=StoredVectors(folder / "text_emb", text_index) if text_index is not None else None,
    )


def _read_faces(folder: Path, metadata: RowMetadata) -> FaceIndex | None:
    """The faces of the images; who may be compared with them is checked with every query, as galleries change."""
    if not (folder / FACES).is_dir() or KEY not in metadata.columns:
        return None
    return load_face_index(folder, metadata.read(KEY).tolist())
