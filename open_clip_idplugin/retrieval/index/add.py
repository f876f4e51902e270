"""The verb `idclip index_add`: more images for an index, without embedding the others again.

Role: index folder + pictures + the model that made it -> the folder with more partitions. The rows that are there keep
their ids; files that stay the same are linked, and the new folder takes the old one's place in one step.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from open_clip_idplugin.checkpoints.fingerprint import fingerprint_image_tower
from open_clip_idplugin.checkpoints.loading import LoadedModel, load_model
from open_clip_idplugin.command_line.devices import AUTO, require_float32_weights
from open_clip_idplugin.command_line.next_step import search_or_serve
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces.face_table import load_face_table
from open_clip_idplugin.hosts.clip_retrieval import verify_hosts
from open_clip_idplugin.pictures.thumbnails import FILE_NAME, file_of_partition, thumbnail_files
from open_clip_idplugin.retrieval.face_index.build import add_faces
from open_clip_idplugin.retrieval.face_index.change import extend_faces, require_fitting_faces
from open_clip_idplugin.retrieval.face_index.kept_face_table import FOLDER as FACE_TABLE
from open_clip_idplugin.retrieval.face_index.kept_face_table import add_to_table
from open_clip_idplugin.retrieval.face_index.passing_faces import finish_faces, passing_engine
from open_clip_idplugin.retrieval.face_index.reading import FOLDER as FACES
from open_clip_idplugin.retrieval.index.build import REPORT_FILE, Finish, NothingReadable, count_synthetic
from open_clip_idplugin.retrieval.index.embed import embed_images
from open_clip_idplugin.retrieval.index.partitions import EmbedOptions, PartitionReport
from open_clip_idplugin.retrieval.index.plan import checkpoint_digest
from open_clip_idplugin.retrieval.index.sources import ImageSource, find_images, without_keys
from open_clip_idplugin.retrieval.index_folder.card import (
    IndexCard,
    IndexMismatch,
    load_card,
    require_same_decoder,
    require_same_tower,
)
from open_clip_idplugin.retrieval.index_folder.faiss_files import read_index
from open_clip_idplugin.retrieval.index_folder.generations import (
    Final,
    can_go_on,
    changing,
    link_tree,
    replacing,
)
from open_clip_idplugin.retrieval.index_folder.removed_rows import keys_left
from open_clip_idplugin.storage.atomic import PUBLIC, atomic_write
from open_clip_idplugin.storage.finite_json import json_text
from open_clip_idplugin.storage.output_folder import building_folder, discard_building
from open_clip_idplugin.storage.reports import write_report

_NEW = "new"  # what is embedded, before it joins the rest
_SHOWN = 5
_BLOCK = 65_536  # vectors that faiss is given at a time


@dataclass(frozen=True)
class Added:
    """What `add_images` did."""

    card: IndexCard
    images: int
    skipped: int
    known: list[str]  # keys that the index had


def index_add(
    index: str,
    images: str,
    model: str,
    checkpoint: str | None = None,
    face_table: str | None = None,
    batch_size: int = 256,
    workers: int = 2,
    device: str = AUTO,
    precision: str = "fp32",
    thumbnail_size: int = 256,
    model_config: str | None = None,
) -> None:
    """Add images to an index made by `idclip index`; a service that serves it goes on with the new one.

    Args:
        index: index folder.
        images: folder of tar shards, brace pattern of shards, or folder of pictures; those whose keys are in the index
            are left out.
        model: model name, with the image tower that made the index.
        checkpoint: weights file, pretrained tag, or hf-hub:OWNER/NAME for a delta of a model hub.
        face_table: folder made by `idclip faces` from the new pictures, for an index with faces.
        batch_size: images a forward pass.
        workers: processes that read and decode.
        device: auto (CUDA where torch has one, else the CPU), cpu, cuda or cuda:N.
        precision: fp32, amp or amp_bf16.
        thumbnail_size: longest side of the pictures kept for showing results, in pixels; an index without thumbnails
            gets none.
        model_config: JSON file, or folder of them, that describes models of your own (see docs/own_models.md).
    """
    if batch_size < 1 or workers < 0 or thumbnail_size < 1:
        raise IdClipError("--batch_size and --thumbnail_size must be at least 1, --workers at least 0")
    require_float32_weights(precision)
    source = find_images(images)
    loaded = load_model(model, checkpoint, device=device, precision=precision, configs=model_config)
    options = EmbedOptions(batch_size, workers, thumbnail_size)
    added = add_images(Path(index), source, loaded, options, face_table)
    if added.known:
        more = f" and {len(added.known) - _SHOWN} more" if len(added.known) > _SHOWN else ""
        print(f"In the index already, left out: {', '.join(added.known[:_SHOWN])}{more}")
    print(
        f"{index}: {added.images} images added, {added.skipped} skipped (see {REPORT_FILE}); {added.card.images} in all"
    )
    settings = {
        "model": model,
        "checkpoint": checkpoint,
        "model_config": model_config,
        "device": device,
        "precision": precision,
    }
    print(search_or_serve(index=index, **settings))


def add_images(
    index: Path,
    source: ImageSource,
    loaded: LoadedModel,
    options: EmbedOptions,
    face_table: str | None = None,
    finish: Finish | None = None,
) -> Added:
    """Embed the pictures of `source` that the index does not hold, and add them to it; all or nothing.

    finish: called with the new folder and the reports of the new partitions before it takes the old one's place.

    Raises:
        NothingReadable: none of the pictures could be read.
        IndexMismatch: no index, or one that another image tower made.
        IdClipError: the face table does not fit.
    """
    verify_hosts()
    require_float32_weights(loaded.precision)
    index = index.resolve()
    with changing(index):
        card = _fitting_card(index, loaded)
        if face_table is not None:
            table = load_face_table(face_table)
            require_fitting_faces(index, table.model_id, f"those of the table '{table.folder}'")
        elif options.faces is not None:
            require_fitting_faces(index, passing_engine(options.faces).model_id, "those of --faces")
        alive = keys_left(index)
        new, known = without_keys(source, alive)
        if not new.shards and not new.keys:
            discard_building(index)
            return Added(card, 0, 0, known)
        options = _fitting_options(index, card, new, loaded, options)
        plan = hashlib.sha256(json_text([card.plan, new.describe(), asdict(options)]).encode()).hexdigest()
        with building_folder(index, json_text({"add": plan}), can_go_on) as building:
            embedded = building / _NEW
            for name in ("img_emb", "metadata"):
                (embedded / name).mkdir(parents=True, exist_ok=True)
            reports = embed_images(new, loaded, embedded, options)
            if not any(report.rows for report in reports):
                raise NothingReadable(
                    f"none of the {new.count} new pictures could be read: the index stays as it was", reports
                )
            with replacing(index, building) as folder:
                together = _join_card(card, embedded, reports, new, plan)
                _assemble(index, embedded, folder, len(card.partitions))
                _write_report(folder, new, reports, known)
                together.write(folder)
                if options.faces is not None:
                    finish_faces(embedded, len(reports), passing_engine(options.faces), new.name)
                    _join_faces(folder, embedded / FACE_TABLE)
                    add_to_table(folder, embedded / FACE_TABLE, alive)
                elif face_table is not None:
                    _join_faces(folder, face_table)
                if finish is not None:
                    finish(folder, reports)
    return Added(together, together.images - card.images, together.skipped - card.skipped, known)


def _fitting_card(index: Path, loaded: LoadedModel) -> IndexCard:
    card = load_card(index)
    if card is None:
        raise IndexMismatch(
            f"'{index}' has no index card, so that nobody can tell which model made it: images can be added to indices of "
            "`idclip index` alone"
        )
    require_same_decoder(card, index)
    require_same_tower(card, fingerprint_image_tower(loaded.model), loaded.name, index)
    return card


def _join_faces(folder: Path, face_table: str | Path) -> None:
    (extend_faces if (folder / FACES).is_dir() else add_faces)(folder, face_table)


def _fitting_options(
    index: Path, card: IndexCard, source: ImageSource, loaded: LoadedModel, options: EmbedOptions
) -> EmbedOptions:
    """Thumbnails and embedded captions for the new images if and only if the others have them."""
    captions = (index / "text.index").exists()
    if captions and not source.has_captions:
        raise IdClipError(f"'{index}' also searches captions, which some of the new pictures lack (.txt in the shards)")
    if captions and (card.model, card.checkpoint_sha256) != (loaded.name, checkpoint_digest(loaded)):
        raise IndexMismatch(f"'{index}' also searches captions, embedded by {card.model} ({card.checkpoint}): use that")
    size = options.thumbnail_size if thumbnail_files(index) else 0
    return replace(options, thumbnail_size=size, embed_captions=captions)


def _assemble(index: Path, embedded: Path, folder: Path, first: int) -> None:
    """Fill `folder`: the index as it is, the new partitions numbered from `first` on, and faiss indices over both."""
    for entry in index.iterdir():
        if not entry.name.startswith("."):
            link_tree(entry, folder / entry.name)
    parts = [("img_emb", "image"), ("text_emb", "text"), ("metadata", None)]
    for name, faiss_name in parts:
        files = sorted((embedded / name).glob("*.*")) if (embedded / name).is_dir() else []
        for path in files:
            stem, number = path.stem.rsplit("_", 1)
            link_tree(path, folder / name / f"{stem}_{int(number) + first:06d}{path.suffix}")
        if faiss_name is not None and files:
            _extend_faiss(folder / f"{faiss_name}.index", files)
    if (embedded / FILE_NAME).exists():
        link_tree(embedded / FILE_NAME, folder / file_of_partition(first))


def _extend_faiss(path: Path, files: list[Path]) -> None:
    """Add the vectors of .npy files to a faiss index, in its own file."""
    import faiss

    index: Any = read_index(path)
    try:
        for file in files:
            vectors = np.load(file, mmap_mode="r")
            for start in range(0, len(vectors), _BLOCK):
                index.add(np.ascontiguousarray(vectors[start : start + _BLOCK], np.float32))
    except RuntimeError:
        raise Final(
            f"{path.name} is of a type that takes no more vectors: make the index again with all images"
        ) from None
    path.unlink()  # a link to the file that is being served
    faiss.write_index(index, str(path))
    infos = path.with_suffix(".json")
    if infos.exists():
        values = json.loads(infos.read_text())
        size = path.stat().st_size
        atomic_write(infos, json_text({**values, "nb vectors": int(index.ntotal), "size in bytes": size}, indent=1))


def _join_card(
    card: IndexCard, embedded: Path, reports: list[PartitionReport], source: ImageSource, plan: str
) -> IndexCard:
    rows = tuple(report.rows for report in reports)
    earlier = card.source["parts"] if card.source.get("kind") == "several" else [card.source]
    return replace(
        card,
        images=card.images + sum(rows),
        skipped=card.skipped + sum(len(report.skipped) for report in reports),
        synthetic=card.synthetic + count_synthetic(embedded / "metadata"),
        partitions=card.partitions + rows,
        plan=plan,
        source={"kind": "several", "parts": [*earlier, source.describe()]},
    )


def _write_report(folder: Path, source: ImageSource, reports: list[PartitionReport], known: list[str]) -> None:
    skipped = [key for report in reports for key in report.skipped]
    added = {
        "indexed": sum(report.rows for report in reports),
        "skipped": {"count": len(skipped), "reason": "the picture (or its caption) cannot be read", "keys": skipped},
        "in_the_index_already": {"count": len(known), "keys": known},
        "shards_that_break_off": [name for report in reports for name in report.broken_shards],
        "captions": source.has_captions,
        "records": source.has_records,
        **source.account(),
    }
    path = folder / REPORT_FILE
    values = json.loads(path.read_text()) if path.exists() else {}
    values["added"] = [*values.get("added", []), added]
    write_report(path, values, PUBLIC)
