"""The pictures of one partition -> image embeddings with captions, metadata and thumbnails, through clip-retrieval's
inference pipeline.

Role: partition number + model -> files of img_emb/, metadata/ and thumbnails, and a report. clip-retrieval's `Runner`
takes its reader, mapper, writer and logger from builders, which is the door used here: its data loader and its mapper do the
work, around them are the model that the plugin loaded, a decoder that no bad picture can stop, a writer (see `writer`)
and a progress bar.
"""

import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clip_retrieval.clip_inference.mapper import ClipMapper
from clip_retrieval.clip_inference.reader import dataset_to_dataloader
from clip_retrieval.clip_inference.runner import Runner
from PIL import Image
from torch.utils.data import Dataset
from tqdm import tqdm

from open_clip_idplugin.checkpoints.loading import LoadedModel
from open_clip_idplugin.faces.face_parts import PicturePlace
from open_clip_idplugin.identity_text import PLACEHOLDER
from open_clip_idplugin.pictures import ImageRejected, PictureMissing, PictureSource, load_image, read_picture
from open_clip_idplugin.pictures.keys import place_of
from open_clip_idplugin.pictures.thumbnails import ThumbnailWriter, make_thumbnail
from open_clip_idplugin.queries.towers import Towers
from open_clip_idplugin.retrieval.face_index.passing_faces import FaceReader, PartFaces, passing_engine
from open_clip_idplugin.retrieval.index.partitions import CANNOT_READ, EmbedOptions, PartitionReport, Partitions
from open_clip_idplugin.retrieval.index.picture_changes import hash_file
from open_clip_idplugin.retrieval.index.shard_pictures import ShardPictures
from open_clip_idplugin.retrieval.index.sources import ImageSource, Shard, picture_keys
from open_clip_idplugin.retrieval.index.writer import PartitionWriter


class Pipeline:
    """The builders that clip-retrieval's `Runner` asks for the parts of a partition's run, and what they share."""

    def __init__(
        self,
        source: ImageSource,
        loaded: LoadedModel,
        options: EmbedOptions,
        partitions: Partitions,
        progress: "tqdm[Any]",
        thumbnails: Callable[[int], ThumbnailWriter],
    ) -> None:
        """`thumbnails`: number of a partition -> the writer of its thumbnails."""
        self._source = source
        self._options = options
        self._partitions = partitions
        self._progress = progress
        self._thumbnails = thumbnails
        faces = FaceReader(options.faces) if options.faces is not None else None
        self._engine = passing_engine(options.faces) if options.faces is not None else None
        self._decoder = _PictureDecoder(loaded.preprocess, options.thumbnail_size, faces)
        self._captions = _CaptionTokenizer(loaded.tokenizer if options.embed_captions else None)
        self._mapper = _Mapper(Towers(loaded), options.embed_captions, source)
        self._writer: PartitionWriter | None = None
        self._faces: PartFaces | None = None
        self._reasons: dict[str, str] = {}
        self._hashes: dict[str, str] = {}
        self._runner = Runner(self._reader, lambda: self._mapper, self._new_writer, self._logger, len(partitions))

    def run(self, number: int) -> PartitionReport:
        """Embed one partition and mark it as done."""
        self._begin(number)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*pin_memory.*")  # the host asks for it on machines without GPU
            self._runner(number)
        if self._faces is not None:
            self._faces.write()
        report = replace(self._report(number), reasons=self._reasons, hashes=self._hashes)
        self._partitions.mark_done(number, report)
        self._progress.update(len(report.skipped))
        return report

    def _begin(self, number: int) -> None:
        self._reasons, self._hashes = {}, {}
        if self._engine is not None:
            self._faces = PartFaces(self._partitions.folder, number, self._engine)

    def _reader(self, sampler: Any) -> Iterator[dict[str, Any]]:
        options = self._options
        if self._source.shards:
            shards = sampler(self._source.shards)
            samples = ShardPictures(shards, self._decoder, self._captions, self._source)
            workers = min(options.workers, len(shards))
            batches: Any = dataset_to_dataloader(samples, options.batch_size, workers, "webdataset")
        else:
            pictures = _PictureFolder(
                self._source.folder or Path(), sampler(self._source.keys), self._decoder, options.hash_files
            )
            batches = dataset_to_dataloader(pictures, options.batch_size, options.workers, "files")
        for batch in batches:
            self._note_pictures(batch)
            kept = _keep_rows(batch, self._source.left_out)
            if kept["image_filename"]:
                yield kept

    def _note_pictures(self, batch: dict[str, Any]) -> None:
        """Keep of a collated batch what is no vector: hashes, faces, and why a picture cannot be read."""
        pictures = batch["image_tensor"]
        for row, key in enumerate(batch["image_filename"]):
            if key in self._source.left_out:
                continue
            reason = pictures["reason"][row]
            if "sha256" in batch:
                self._hashes[key] = batch["sha256"][row]
            if reason:
                self._reasons[key] = reason
            if self._faces is not None:
                shard, path = (
                    (batch[name][row] for name in ("shard", "picture_path")) if "shard" in batch else (None, key)
                )
                place = PicturePlace(shard, key, path)
                if reason:
                    self._faces.reject(place, CANNOT_READ, reason)
                else:
                    self._faces.add(place, pictures["faces"][row])

    def _new_writer(self, number: int) -> PartitionWriter:
        thumbnails = self._thumbnails(number) if self._options.thumbnail_size else None
        self._writer = PartitionWriter(self._partitions.folder, number, thumbnails)
        return self._writer

    def _logger(self, number: int) -> "_ProgressLogger":
        return _ProgressLogger(self._progress)

    def _report(self, number: int) -> PartitionReport:
        """Compare what was written with what is there: host and decoder drop bad pictures without a word."""
        written = set(self._writer.keys) if self._writer is not None else set()
        rows = len(self._writer.keys) if self._writer is not None else 0
        if not self._source.shards:
            return PartitionReport(rows, [key for key in self._partitions.parts[number] if key not in written])
        shards: list[Shard] = self._partitions.parts[number]
        broken = [shard.path.name for shard in shards if not shard.readable]
        if rows >= sum(shard.samples for shard in shards):
            return PartitionReport(rows, broken_shards=broken)
        there = [key for shard in shards for key in picture_keys(shard)]
        seen = written | self._source.left_out
        return PartitionReport(rows, [key for key in there if key not in seen], broken)


class _PictureDecoder:
    """Stands where the host expects a preprocessing: picture -> {"pixels", "thumbnail", "good"}, and never raises."""

    def __init__(self, preprocess: Any, thumbnail_size: int, faces: FaceReader | None = None) -> None:
        self._preprocess = preprocess
        self._thumbnail_size = thumbnail_size
        self._faces = faces
        self._nothing = torch.zeros_like(preprocess(Image.new("RGB", (64, 64))))

    def __call__(self, source: PictureSource) -> dict[str, Any]:
        try:
            picture = load_image(source)
        except ImageRejected as error:  # the host would lose the whole run or sleep over it
            return self.nothing(error)
        return self.views(picture)

    def views(self, picture: Image.Image) -> dict[str, Any]:
        """What is kept of a decoded picture (RGB)."""
        thumbnail = make_thumbnail(picture, self._thumbnail_size) if self._thumbnail_size else b""
        faces = self._faces(picture) if self._faces is not None else b""
        pixels = self._preprocess(picture)
        return {"pixels": pixels, "thumbnail": thumbnail, "good": True, "faces": faces, "reason": ""}

    def nothing(self, error: ImageRejected) -> dict[str, Any]:
        """What stands for a picture that cannot be read."""
        return {"pixels": self._nothing, "thumbnail": b"", "good": False, "faces": b"", "reason": error.reason}


class _PictureFolder(Dataset[dict[str, Any]]):
    """Pictures of a folder, in the form of clip-retrieval's own dataset (which a hostile picture can stop)."""

    def __init__(self, folder: Path, keys: Sequence[str], decoder: _PictureDecoder, hash_files: bool) -> None:
        self._folder = folder
        self._keys = keys
        self._decoder = decoder
        self._hash_files = hash_files

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, row: int) -> dict[str, Any]:
        key = self._keys[row]
        place = Path(str(place_of(self._folder, key)))
        if not self._hash_files:
            return {"image_filename": key, "image_tensor": self._decoder(place)}
        try:
            content = read_picture(place)
        except ImageRejected as error:
            digest = "" if isinstance(error, PictureMissing) else hash_file(place)
            return {"image_filename": key, "image_tensor": self._decoder.nothing(error), "sha256": digest}
        digest = hashlib.sha256(content).hexdigest()
        return {"image_filename": key, "image_tensor": self._decoder(content), "sha256": digest}


class _CaptionTokenizer:
    """Tokens of captions, or, where captions are only kept and not embedded, nothing at next to no cost."""

    def __init__(self, tokenizer: Any | None) -> None:
        self._tokenizer = tokenizer

    def __call__(self, texts: list[str]) -> torch.Tensor:
        if self._tokenizer is None:
            return torch.zeros(len(texts), 1, dtype=torch.int64)
        # A caption that quotes the placeholder names nobody.
        tokens: torch.Tensor = self._tokenizer([text.replace(PLACEHOLDER, "TOK") for text in texts])
        return tokens


class _Mapper(ClipMapper):
    """clip-retrieval's mapper with a model that is already loaded, and thumbnails carried along."""

    def __init__(self, towers: Towers, embed_captions: bool, source: ImageSource) -> None:
        # The inherited constructor loads a model by name; everything it sets is set here.
        self.enable_image = True
        self.enable_text = embed_captions
        self.enable_metadata = source.has_records
        self.use_mclip = False
        self.device = towers.device
        self.model_img = towers.encode_image
        self.model_txt = towers.encode_text

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        embeddings: dict[str, Any] = super().__call__(item)
        return {**embeddings, "text": item.get("text"), "thumbnails": item["thumbnails"]}


class _ProgressLogger:
    """Stands where the host expects its logger, which would start a process a partition."""

    def __init__(self, progress: "tqdm[Any]") -> None:
        self._progress = progress

    def start(self) -> None:
        """Nothing to start."""

    def end(self) -> None:
        """Nothing to end."""

    def __call__(self, stats: dict[str, float]) -> None:
        """Advance by the pictures of one batch."""
        self._progress.update(int(stats["sample_count"]))


def _keep_rows(batch: dict[str, Any], left_out: AbstractSet[str]) -> dict[str, Any]:
    """A collated batch -> the host's form of it (`image_tensor` [B, 3, H, W]), without unreadable pictures and those keys."""
    pictures = batch["image_tensor"]
    good = np.array(
        [row for row in np.flatnonzero(pictures["good"].numpy()) if batch["image_filename"][row] not in left_out],
        np.int64,
    )
    return {
        name: values[torch.from_numpy(good)] if isinstance(values, torch.Tensor) else [values[row] for row in good]
        for name, values in {**batch, "image_tensor": pictures["pixels"], "thumbnails": pictures["thumbnail"]}.items()
    }
