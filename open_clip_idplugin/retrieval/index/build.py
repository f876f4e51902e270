"""The verb `idclip index`: pictures -> a folder that clip-retrieval serves.

Role: shards or a folder of pictures + model -> img_emb/, metadata/, image.index, thumbnails.sqlite, index_card.json,
index_report.json. Everything is built in a hidden folder beside the output and renamed at the end; a killed run goes
on there.
"""

import importlib.metadata
import shutil
from collections.abc import Callable
from pathlib import Path

from open_clip_idplugin.checkpoints.loading import LoadedModel, load_model
from open_clip_idplugin.command_line.devices import AUTO, require_float32_weights
from open_clip_idplugin.command_line.next_step import search_or_serve
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces.face_table import load_face_table
from open_clip_idplugin.faces.finding import FaceFinding
from open_clip_idplugin.hosts.clip_retrieval import verify_hosts
from open_clip_idplugin.pictures import DECODER_VERSION
from open_clip_idplugin.retrieval.face_index.build import add_faces, add_faces_to_held
from open_clip_idplugin.retrieval.face_index.kept_face_table import FOLDER as FACE_TABLE
from open_clip_idplugin.retrieval.face_index.passing_faces import finish_faces, passing_engine
from open_clip_idplugin.retrieval.face_index.reading import FOLDER as FACES
from open_clip_idplugin.retrieval.face_index.reading import read_info
from open_clip_idplugin.retrieval.index.embed import embed_images
from open_clip_idplugin.retrieval.index.factory_key import require_index_key
from open_clip_idplugin.retrieval.index.faiss_build import build_faiss
from open_clip_idplugin.retrieval.index.partitions import (
    DONE_FOLDER,
    PYSPARK,
    SEQUENTIAL,
    EmbedOptions,
    PartitionReport,
    check_distributor,
)
from open_clip_idplugin.retrieval.index.plan import IndexPlan, checkpoint_digest, make_plan
from open_clip_idplugin.retrieval.index.sources import ImageSource, find_images
from open_clip_idplugin.retrieval.index_folder.card import IndexCard, load_card, require_same_decoder
from open_clip_idplugin.retrieval.index_folder.generations import Final, can_go_on
from open_clip_idplugin.retrieval.index_folder.metadata_columns import renamed, stored_columns
from open_clip_idplugin.storage.atomic import PUBLIC
from open_clip_idplugin.storage.output_folder import building_folder, put_in_place
from open_clip_idplugin.storage.reports import write_report

REPORT_FILE = "index_report.json"
Finish = Callable[[Path, list[PartitionReport]], object]
_SHOWN = 5


class NothingReadable(Final):
    """Not one of the pictures could be read; `reports` say why."""

    def __init__(self, message: str, reports: list[PartitionReport]) -> None:
        super().__init__(message)
        self.reports = reports


def index(
    images: str,
    model: str,
    output: str,
    checkpoint: str | None = None,
    batch_size: int = 256,
    workers: int = 2,
    device: str = AUTO,
    precision: str = "fp32",
    thumbnail_size: int = 256,
    embed_captions: bool = False,
    index_key: str | None = None,
    face_table: str | None = None,
    faces: str | None = None,
    det_size: int | None = None,
    distributor: str = SEQUENTIAL,
    model_config: str | None = None,
) -> None:
    """Embed images with clip-retrieval and build a search index with autofaiss.

    Args:
        images: folder of tar shards, brace pattern of shards, folder of pictures (with its subfolders), or a glob.
        model: name of any open_clip model, e.g. ViT-B-32 or IdCLIP-ViT-L-14-336 (an index of a plain CLIP serves an IdCLIP with
            the same image tower).
        output: folder to write.
        checkpoint: weights file, pretrained tag, or hf-hub:OWNER/NAME for a delta of a model hub.
        batch_size: images a forward pass.
        workers: processes that read and decode (on Spark: for every task).
        device: auto (CUDA where torch has one, else the CPU), cpu, cuda or cuda:N.
        precision: fp32, amp or amp_bf16.
        thumbnail_size: longest side of the pictures kept for showing results, in pixels; 0 keeps none.
        embed_captions: also embed the captions and build a text index (clip-retrieval's modality "text").
        index_key: faiss index type, e.g. Flat for exact search; autofaiss chooses by default (Flat below 1000 images).
        face_table: folder made by `idclip faces` from the same pictures, for searches that compare faces.
        faces: face engine, such as opencv:default or insightface:buffalo_l: find the faces of the pictures in the same pass,
            in the place of `idclip faces` and --face_table; each file is read and decoded once.
        det_size: side of the square in which the face detector sees a picture (default: the model's own).
        distributor: sequential, or pyspark to embed on Spark (and to fill inverted files there); every machine needs the
            pictures, the checkpoint and the output under the same paths.
        model_config: JSON file, or folder of them, that describes models of your own (see docs/own_models.md).
    """
    if batch_size < 1 or workers < 0 or thumbnail_size < 0:
        raise IdClipError("--batch_size must be at least 1, --workers and --thumbnail_size at least 0")
    require_float32_weights(precision)
    check_distributor(distributor)
    finding = choose_finding(faces, det_size, face_table, distributor)
    if face_table is not None:
        load_face_table(face_table)  # what is no face table is refused before the work, not after it
    source = find_images(images)
    if embed_captions and not source.has_captions:
        raise IdClipError("--embed_captions needs a caption (.txt) in every sample of the shards; leave the flag out")
    place = "cpu" if distributor == PYSPARK else device
    loaded = load_model(model, checkpoint, device=place, precision=precision, configs=model_config)
    options = EmbedOptions(batch_size, workers, thumbnail_size, embed_captions, distributor, device, finding)
    card = build_index(source, loaded, Path(output), options, index_key)
    print(f"{output}: {card.images} images, {card.skipped} skipped (see {REPORT_FILE})")
    if face_table is not None or finding is not None:
        info = read_info(Path(output) / FACES) if face_table is None else add_faces(Path(output), face_table)
        print(f"{output}: {info.faces} faces in {info.images_with_faces} images, by {info.model_id}")
    settings = {
        "model": model,
        "checkpoint": checkpoint,
        "model_config": model_config,
        "device": device,
        "precision": precision,
    }
    print(search_or_serve(index=output, **settings, faces=faces, det_size=det_size))


def choose_finding(
    faces: str | None, det_size: int | None, face_table: str | None, distributor: str = SEQUENTIAL
) -> FaceFinding | None:
    """How to find faces in the same pass, where `faces` asks for it.

    Raises:
        IdClipError: flags that exclude each other, or no such engine.
    """
    if faces is None:
        return None
    if face_table is not None:
        raise IdClipError("--faces finds the faces of the pictures, --face_table has them already: give one of the two")
    if distributor == PYSPARK:
        raise IdClipError(
            "--faces works on this machine alone: find the faces with `idclip faces --distributor pyspark`, and give "
            "--face_table"
        )
    finding = FaceFinding(faces, det_size)
    passing_engine(finding)  # a model that is not there is said before the work
    return finding


def build_index(
    source: ImageSource,
    loaded: LoadedModel,
    output: Path,
    options: EmbedOptions,
    index_key: str | None = None,
    finish: Finish | None = None,
) -> IndexCard:
    """Build the index folder `output`, or return the card of the same index if it is there already.

    `loaded` must keep float32 weights (fp32, amp or amp_bf16). `finish` is called with the folder and the reports of its
    partitions before it takes its name.

    Raises:
        NothingReadable: no picture could be read.
        IdClipError: `output` is something else, or so many pictures do not fit `index_key`.
    """
    verify_hosts()
    require_float32_weights(loaded.precision)
    if index_key is not None:
        require_index_key(index_key, _embedding_size(loaded), source.count)
    plan = make_plan(source, loaded, options, index_key)
    existing = _existing_card(output, plan)
    if existing is not None:
        print(f"{output} is this very index already; nothing to do")
        return existing
    with building_folder(output, plan.to_json(), can_go_on) as building:
        for name in ("img_emb", "metadata"):
            (building / name).mkdir(exist_ok=True)
        reports = embed_images(source, loaded, building, options)
        if not any(report.rows for report in reports):
            raise NothingReadable(
                f"none of the {source.count} pictures could be read, so that there is nothing to index", reports
            )
        build_faiss(building, "img", "image", index_key, options.distributor)
        if options.embed_captions:
            build_faiss(building, "text", "text", index_key, options.distributor)
        card = _make_card(loaded, building, plan, reports)
        _write_report(building, source, reports)
        if options.faces is not None:
            finish_faces(building, len(reports), passing_engine(options.faces), source.name)
            add_faces_to_held(building, building / FACE_TABLE)
        if finish is not None:
            finish(building, reports)
        shutil.rmtree(building / DONE_FOLDER)
        card.write(building)
        put_in_place(building, output)
    return card


def _embedding_size(loaded: LoadedModel) -> int:
    """Numbers of an embedding, which the towers share; a text of one word is encoded sooner than a picture."""
    import torch

    with torch.no_grad():
        return int(loaded.model.encode_text(loaded.tokenizer(["a"]).to(loaded.device)).shape[-1])


def _existing_card(output: Path, plan: IndexPlan) -> IndexCard | None:
    if not output.exists():
        return None
    card = load_card(output) if output.is_dir() else None
    if card is not None and card.plan == plan.digest:
        return card
    if output.is_dir() and not any(output.iterdir()):
        return None
    if card is not None:
        require_same_decoder(card, output)
    what = "an index of other images, another model or other options" if card is not None else "something else"
    raise IdClipError(f"'{output}' exists and holds {what}: choose another --output, or remove it first")


def _make_card(loaded: LoadedModel, folder: Path, plan: IndexPlan, reports: list[PartitionReport]) -> IndexCard:
    import numpy as np

    first = next((folder / "img_emb").glob("*.npy"))
    return IndexCard(
        model=loaded.name,
        checkpoint=Path(loaded.checkpoint).name if loaded.checkpoint else None,
        checkpoint_sha256=checkpoint_digest(loaded),
        image_tower=plan.image_tower,
        embedding_size=int(np.load(first, mmap_mode="r").shape[1]),
        images=sum(report.rows for report in reports),
        skipped=sum(len(report.skipped) for report in reports),
        synthetic=count_synthetic(folder / "metadata"),
        partitions=tuple(report.rows for report in reports),
        plan=plan.digest,
        source=plan.source,
        decoder=DECODER_VERSION,
        versions={
            name: importlib.metadata.version(name) for name in ("open_clip_torch", "clip-retrieval", "autofaiss")
        },
    )


def count_synthetic(metadata: Path) -> int:
    """Rows of a metadata folder that say of their picture that it is synthetic."""
    import pyarrow.parquet

    count = 0
    for path in sorted(metadata.glob("*.parquet")):
        if "synthetic" in pyarrow.parquet.read_schema(path).names:
            count += sum(value is True for value in pyarrow.parquet.read_table(path)["synthetic"].to_pylist())
    return count


def _write_report(folder: Path, source: ImageSource, reports: list[PartitionReport]) -> None:
    skipped = [key for report in reports for key in report.skipped]
    broken = [name for report in reports for name in report.broken_shards]
    other_names = renamed(stored_columns(folder))
    values = {
        "found": source.count,
        "indexed": sum(report.rows for report in reports),
        "skipped": {"count": len(skipped), "reason": "the picture (or its caption) cannot be read", "keys": skipped},
        "shards_that_break_off": broken,
        "captions": source.has_captions,
        "records": source.has_records,
        "renamed_columns": other_names,
        **source.account(),
    }
    write_report(folder / REPORT_FILE, values, PUBLIC)
    if skipped:
        more = f" and {len(skipped) - _SHOWN} more" if len(skipped) > _SHOWN else ""
        print(f"Skipped, cannot be read: {', '.join(skipped[:_SHOWN])}{more}")
    if other_names:
        names = ", ".join(f"{name} is now {other}" for name, other in other_names.items())
        print(f"Columns of the metadata with names of our own: {names}")
    if broken:
        print(f"Tar files that break off, read up to there: {', '.join(broken)}")
    for line in source.account_lines():
        print(line)
