"""The verb `idclip open`: a folder of pictures becomes searchable by who and what, with one command.

Role: picture folders + model + face engine -> an index that follows them, a gallery, groups of unknown faces, and the running
service. It is a composition: listing, `index_refresh`, enrolling a folder, grouping and `serve`, each also a verb or
function of its own.
"""

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from open_clip_idplugin.command_line.devices import AUTO, require_float32_weights
from open_clip_idplugin.command_line.next_step import search_or_serve
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces.finding import FaceFinding
from open_clip_idplugin.gallery.group_files import CSV_FILE, PAGE_FILE
from open_clip_idplugin.model_store import MODELS, state_of
from open_clip_idplugin.model_store.installation import THERE
from open_clip_idplugin.retrieval.face_index.change import require_fitting_faces
from open_clip_idplugin.retrieval.face_index.passing_faces import passing_engine
from open_clip_idplugin.retrieval.face_index.reading import FOLDER as FACES
from open_clip_idplugin.retrieval.face_index.reading import read_info
from open_clip_idplugin.retrieval.index.partitions import EmbedOptions
from open_clip_idplugin.retrieval.index.picture_manifest import Listing, list_pictures
from open_clip_idplugin.retrieval.index.refresh import IndexRefresh
from open_clip_idplugin.retrieval.open.open_people import GROUPS, OpenPeople
from open_clip_idplugin.retrieval.open.open_report import REPORT_FILE, OpenReport, read_state
from open_clip_idplugin.storage.locations import user_folder
from open_clip_idplugin.storage.output_folder import locked

if TYPE_CHECKING:
    from open_clip_idplugin.checkpoints.loading import LoadedModel

DEFAULT_MODEL, DEFAULT_CHECKPOINT = "ViT-B-32", "laion2b_s34b_b79k"
INDEX, GALLERY = "index", "gallery.sqlite"
_FACE_MODELS = ("opencv", "buffalo_l")  # in the order in which they are looked for
_MOST_WORKERS = 8


def open_pictures(
    *pictures: str,
    model: str = DEFAULT_MODEL,
    checkpoint: str | None = None,
    faces: str | None = None,
    people: str | None = None,
    output: str | None = None,
    gallery: str | None = None,
    det_size: int | None = None,
    batch_size: int = 64,
    workers: int | None = None,
    device: str = AUTO,
    precision: str = "fp32",
    thumbnail_size: int = 512,
    accept_gone: bool = False,
    serve: bool = True,
    host: str = "127.0.0.1",
    port: int = 1234,
    token_file: str | None = None,
    model_config: str | None = None,
) -> None:
    """Make folders of pictures searchable by who and what, and serve them; run again, it takes in what has changed.

    Args:
        pictures: one or more folders of pictures (with their subfolders); nothing is ever written there.
        model: any open_clip model.
        checkpoint: weights file, pretrained tag or hf-hub:OWNER/NAME (default for ViT-B-32: laion2b_s34b_b79k, which
            open_clip fetches).
        faces: face engine, such as opencv:default or insightface:buffalo_l (default: whichever of the two is on the disk).
        people: folder with a folder of photos for every person who is to be known by name.
        output: where index, gallery and groups are kept (default: a folder of that name in the user's data folder).
        gallery: gallery file (default: one in the output folder).
        det_size: side of the square in which the face detector sees a picture (default: the engine's own).
        batch_size: images a forward pass.
        workers: processes that read, decode and look for faces (default: as many as there are cores, 8 at most).
        device: auto (CUDA where torch has one, else the CPU), cpu, cuda or cuda:N.
        precision: fp32, amp or amp_bf16.
        thumbnail_size: longest side of the pictures kept for showing results, in pixels.
        accept_gone: take more than half of the pictures out of the index when their files are gone.
        serve: start the service at the end; --noserve stops before it.
        host: address to listen on; any but this machine's own needs a token.
        port: port to listen on; 0 picks a free one.
        token_file: file (0600) with the token that requests must send; or the environment variable IDCLIP_TOKEN.
        model_config: JSON file, or folder of them, that describes models of your own (see docs/own_models.md).
    """
    if not pictures:
        raise IdClipError("name a folder of pictures: idclip open PICTURES")
    if batch_size < 1 or thumbnail_size < 1 or (workers is not None and workers < 0):
        raise IdClipError("--batch_size and --thumbnail_size must be at least 1, --workers at least 0")
    require_float32_weights(precision)
    # Before torch is imported: threads of the tower that spin while they wait take the cores of the readers beside them.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if people is not None and not Path(people).expanduser().is_dir():
        raise IdClipError(f"--people: there is no folder '{people}'; give one with a folder of photos for every person")
    spec = choose_faces(faces)
    weights = choose_checkpoint(model, checkpoint)
    listing = list_pictures(pictures)
    folder = choose_output(output, listing)
    people_file = Path(gallery).expanduser() if gallery else folder / GALLERY
    finding = FaceFinding(spec, det_size)
    options = EmbedOptions(batch_size, _readers(workers), thumbnail_size, faces=finding)
    known = OpenPeople(folder, folder / INDEX, listing.root, people_file, read_state(folder))

    def load() -> "LoadedModel":
        from open_clip_idplugin.checkpoints.loading import load_model  # imports torch

        return load_model(model, weights, device, precision, model_config)

    refresh = IndexRefresh(folder / INDEX, listing.root, load, options, accept_gone)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with locked(folder):
        report = _bring_up_to_date(listing, refresh, known, people, finding)
        report.write(folder)
    _print_summary(report, folder)
    if not serve:
        settings: dict[str, object] = {"model": model, "checkpoint": weights, "model_config": model_config}
        settings |= {"faces": spec, "det_size": det_size, "device": device, "precision": precision}
        print(search_or_serve(index=folder / INDEX, **settings, gallery=people_file))
        return
    from open_clip_idplugin.retrieval.serve import serve as start

    start(
        str(folder / INDEX),
        model,
        weights,
        gallery=str(people_file),
        faces=spec,
        det_size=det_size,
        host=host,
        port=port,
        device=device,
        precision=precision,
        token_file=token_file,
        model_config=model_config,
    )


def choose_faces(faces: str | None) -> str:
    """The face engine: the one that is asked for, else the first of the defaults that is on the disk.

    Raises:
        IdClipError: none is; with the one command that gets one.
    """
    if faces is not None:
        return faces
    there = next((MODELS[name] for name in _FACE_MODELS if state_of(MODELS[name]) == THERE), None)
    if there is None:
        free = MODELS[_FACE_MODELS[0]]
        raise IdClipError(
            f"no face model is on this disk: `{free.command}` fetches one ({free.size / 1e6:.0f} MB, {free.licence}), or "
            "name yours with --faces"
        )
    return there.spec


def choose_checkpoint(model: str, checkpoint: str | None) -> str:
    """The weights: those that are asked for, else the default model's tag.

    Raises:
        IdClipError: another model without weights.
    """
    if checkpoint is not None:
        return checkpoint
    if model != DEFAULT_MODEL:
        raise IdClipError(
            f"give --checkpoint, a weights file or pretrained tag of {model}: random weights find nothing"
        )
    return DEFAULT_CHECKPOINT


def choose_output(output: str | None, listing: Listing) -> Path:
    """The output folder; by default one in the user's data folder, named after the pictures' folder.

    Raises:
        IdClipError: it would lie among the pictures.
    """
    if output is None:
        digest = hashlib.sha256(
            "\n".join(sorted(map(str, listing.folders))).encode(errors="surrogateescape")
        ).hexdigest()
        folder = user_folder() / "collections" / f"{listing.folders[0].name}-{digest[:8]}"
    else:
        folder = Path(output).expanduser()
    resolved = folder.resolve()
    for place in listing.folders:
        if place == resolved or place in resolved.parents or resolved in place.parents:
            raise IdClipError(
                f"--output '{folder}' and the pictures in '{place}' lie inside each other: choose another"
            )
    return resolved


def _readers(workers: int | None) -> int:
    return min(os.cpu_count() or 1, _MOST_WORKERS) if workers is None else workers


def _bring_up_to_date(
    listing: Listing, refresh: IndexRefresh, known: OpenPeople, people: str | None, finding: FaceFinding
) -> OpenReport:
    """All steps in their order: named groups, index, thresholds, named folders, groups of unknown faces."""
    index = known.index
    engine = passing_engine(finding)  # a face model that is not there, or another one, is said before the work
    require_fitting_faces(index, engine.model_id, "those of --faces")
    known.enroll_named_groups()
    refreshed = refresh.run(listing.pictures)
    report = OpenReport([str(place) for place in listing.folders], refreshed, listing.passed_over)
    info = read_info(index / FACES)
    report.faces, report.pictures_with_faces, report.face_model = info.faces, info.images_with_faces, info.model_id
    report.calibration = known.calibrate()
    known.enroll_folder(people, finding)
    report.people = len(known.gallery.people()) if known.gallery.path.exists() else 0
    report.groups = known.suggest()
    report.state = known.state
    return report


def _print_summary(report: OpenReport, folder: Path) -> None:
    print("\n".join(report.lines()))
    print(f"wrote {folder}: what was done and left out is in {REPORT_FILE}")
    if report.groups is not None and report.groups.groups:
        print(
            f"unknown faces: look at {GROUPS}/{PAGE_FILE} there, write names into {GROUPS}/{CSV_FILE}, and open again"
        )
