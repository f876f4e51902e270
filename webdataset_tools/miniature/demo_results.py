"""The demo's second half: the trained model -> a table, answers of the search backend, and a page.

Role: shards + checkpoint -> evaluation beside the rival; index, gallery and Flask app of the retrieval package -> answers to
example queries; both -> `report.html`. Imports open_clip.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open_clip_idplugin import prompts
from open_clip_idplugin.checkpoints.loading import load_model
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.evaluation.protocols import Settings
from open_clip_idplugin.evaluation.rivals import CAPTION_AND_FACE, HYBRID
from open_clip_idplugin.evaluation.tables import percent, result_tables, to_console, write_results
from open_clip_idplugin.faces import load_face_engine
from open_clip_idplugin.gallery import Gallery
from open_clip_idplugin.gallery.verbs import enroll_photos
from open_clip_idplugin.storage.finite_json import json_text
from webdataset_tools.miniature import demo_steps as steps
from webdataset_tools.miniature.demo_report import Hit, Query, Report, Row, Table, write_report
from webdataset_tools.sample_format import Sample, read_samples
from webdataset_tools.shard_evaluation import Loading, Rival, evaluate_shards

if TYPE_CHECKING:
    import flask

    from open_clip_idplugin.checkpoints.loading import LoadedModel
    from webdataset_tools.miniature.demo_steps import Demo

CONFIGURATIONS = ("captions", "names", "conf1")
TEMPLATE = 0  # "An image with [ENTITY]. [CAPTION]"
LABELS = {
    "captions": "CLIP, caption",
    "names": "CLIP, caption + name",
    "conf1": "Id-CLIP (conf1), caption + face token",
    CAPTION_AND_FACE: "late fusion: any CLIP, caption + face match",
    HYBRID: "hybrid: Id-CLIP and face match, as search ranks",
}
COLUMNS = {"t2i_R@1": "R@1", "t2i_R@5": "R@5", "t2i_R@10": "R@10", "mAP@10_standard": "mAP@10, face or name only"}
EXAMPLE_QUERIES = 8
HITS = 6
PHOTOS_A_PERSON = 3

Metrics = Mapping[str, Mapping[str, float]]


def evaluate_and_search(run: "Demo") -> None:
    """Evaluate on the test people, index their images, ask for some of them and write the page."""
    loaded = load_model(steps.MODEL, str(run.checkpoint))
    results: dict[str, Any] = {}
    command = ["idclip", "evaluate", "--data", str(run.shards("test")), "--model", steps.MODEL]
    command += ["--checkpoint", str(run.checkpoint), "--configurations", ",".join(CONFIGURATIONS)]
    command += ["--templates", str(TEMPLATE), "--rival", steps.FACES, "--rival_data", str(run.shards("val"))]
    command += ["--det_size", str(steps.DETECTOR_SIDE)]
    command += ["--output", str(run.output / "results")]
    run.step("evaluate on unseen people", command, lambda: results.update(evaluate(run, loaded)))
    app = searchable(run, loaded)
    queries = ask(run, app)
    add_faces(run)
    write_report(
        report(run, results["metrics"], results["strata"], queries, results["images"]), run.output / "report.html"
    )
    print("\n" + headline(results["metrics"]))


def evaluate(run: "Demo", loaded: "LoadedModel") -> dict[str, Any]:
    """Run both protocols and the rival; writes `results/` and returns metrics, strata and the number of images."""
    settings = Settings(configurations=CONFIGURATIONS, templates=TEMPLATE, seed=run.seed, progress=True)
    rival = Rival(load_face_engine(steps.FACES, det_size=steps.DETECTOR_SIDE), validation=str(run.shards("val")))
    loading = Loading(workers=run.workers)
    evaluation = evaluate_shards(str(run.shards("test")), loaded, settings, loading, rival)
    about = {"model": steps.MODEL, "checkpoint": run.checkpoint.name, **asdict(settings)}
    write_results(run.output / "results", evaluation.results, about)
    print(to_console(result_tables(evaluation.results)))
    return {
        "metrics": evaluation.results.metrics,
        "strata": evaluation.results.strata,
        "images": len(evaluation.images.evaluation_set),
    }


def headline(metrics: Metrics) -> str:
    """The table that the demo ends with, and the ratio that the paper reports."""
    width = max(map(len, LABELS.values()))
    lines = [f"{'on unseen people, percent':<{width}}  " + "  ".join(COLUMNS.values())]
    for name, label in LABELS.items():
        cells = (f"{cell(metrics[name], column):>{len(head)}}" for column, head in COLUMNS.items())
        lines.append(f"{label:<{width}}  " + "  ".join(cells))
    return "\n".join([*lines, ratio_sentence(metrics), which_ranking(metrics)])


def cell(metrics: Mapping[str, float], column: str) -> str:
    """A value in percent; a plain caption names nobody, so that it has no entity metrics."""
    return percent(metrics[column]) if column in metrics else "-"


def ratio_sentence(metrics: Metrics) -> str:
    """Id-CLIP's t2i R@1 as a multiple of the query by name."""
    ratio = metrics["conf1"]["t2i_R@1"] / max(metrics["names"]["t2i_R@1"], 1e-9)
    return f"Id-CLIP finds the image at rank 1 {ratio:.2f} times as often as the query by name (the paper: 1.41)."


def which_ranking(metrics: Metrics) -> str:
    """Which of the rankings to use when."""
    best = max(LABELS, key=lambda name: metrics[name]["t2i_R@1"])
    return (
        "Which to use: late fusion where nothing was trained; the hybrid, which `idclip search` takes by itself, with a trained "
        "adaptor and an index with faces; the token alone where no faces are indexed. Most often right at rank 1 here: "
        f"{LABELS[best].partition(':')[0]} ({percent(metrics[best]['t2i_R@1'])})."
    )


def searchable(run: "Demo", loaded: "LoadedModel") -> "flask.Flask":
    """Index the test images through clip-retrieval, enrol the people of the example queries, open the backend."""
    from open_clip_idplugin.retrieval.index.build import index
    from open_clip_idplugin.retrieval.ranking.query_people import People
    from open_clip_idplugin.retrieval.service.app import create_app

    images, output = str(run.shards("test")), str(run.index)
    flags = ["--model", steps.MODEL, "--checkpoint", str(run.checkpoint)]
    run.step(
        "embed and index",
        ["idclip", "index", "--images", images, "--output", output, *flags, "--index_key", "Flat"],
        lambda: index(images, steps.MODEL, output, str(run.checkpoint), workers=run.workers, index_key="Flat"),
    )
    engine = load_face_engine(steps.FACES, det_size=steps.DETECTOR_SIDE)
    gallery = Gallery(str(run.gallery))
    for sample in example_samples(run):
        name = sample.record.identity_name
        photos = [str(photo) for photo in identity_photos(run, sample)[:PHOTOS_A_PERSON]]
        command = ["idclip", "enroll", name, *photos, "--gallery", str(run.gallery), "--faces", steps.FACES]
        command += ["--det_size", str(steps.DETECTOR_SIDE)]
        run.step(f"enrol {name}", command, partial(enroll_photos, gallery, name, photos, engine))
    people = People(gallery, engine)
    return create_app({"index": run.index}, loaded, people)


def add_faces(run: "Demo") -> None:
    """Find the faces of the indexed images, so that the service and its page can frame, compare and name them."""
    from open_clip_idplugin.retrieval.face_index.build import index_faces
    from webdataset_tools.collection_faces.command import faces

    images, table = str(run.shards("test")), str(run.output / "faces")
    command = ["idclip", "faces", "--input", images, "--output", table, "--faces", steps.FACES]
    command += ["--det_size", str(steps.DETECTOR_SIDE)]
    find = partial(faces, images, table, steps.FACES, steps.DETECTOR_SIDE, workers=run.workers)
    run.step("find faces", command, find)
    command = ["idclip", "index_faces", "--index", str(run.index), "--face_table", table]
    run.step("add the faces to the index", command, lambda: index_faces(str(run.index), table))


def example_samples(run: "Demo") -> list[Sample]:
    """Test samples of different people and scenes, drawn by the demo's seed and not chosen by their result."""
    samples = list(read_samples(str(run.shards("test"))))
    random.Random(run.seed).shuffle(samples)
    chosen: list[Sample] = []
    for sample in samples:
        taken = {other.record.identity_name for other in chosen} | {other.record.image_id for other in chosen}
        if taken.isdisjoint((sample.record.identity_name, sample.record.image_id)):
            chosen.append(sample)
        if len(chosen) == EXAMPLE_QUERIES:
            break
    return chosen


def identity_photos(run: "Demo", sample: Sample) -> list[Path]:
    """The photos of the sample's person; none of them is a searched image."""
    photos = sorted((run.photos / sample.record.identity_id).glob("*.jpg"))
    if not photos:
        raise IdClipError(
            f"{run.photos / sample.record.identity_id} holds no photos; remove {run.release} and try again"
        )
    return photos


def ask(run: "Demo", app: "flask.Flask") -> list[Query]:
    """Send every example query to the backend, as `ClipClient` or `idclip search` would."""
    client = app.test_client()
    queries = []
    for sample in example_samples(run):
        text = prompts.expand(prompts.general_text(sample.caption, TEMPLATE), "conf1")
        # The token alone, also where the index has faces from a run before.
        body = {"text": text, "identities": [sample.record.identity_name], "num_images": HITS, "fusion": "none"}
        answer = client.post("/knn-service", data=json_text(body))
        if answer.status_code != 200:
            raise IdClipError(f"the backend refused the query '{text}': {answer.get_data(as_text=True)}")
        face = identity_photos(run, sample)[0].read_bytes()
        hits = [_hit(result, sample) for result in answer.get_json()]
        queries.append(Query(face, sample.record.identity_name, text, hits))
    return queries


def _hit(result: Mapping[str, Any], wanted: Sample) -> Hit:
    right = result["image_id"] == wanted.record.image_id and result["identity_id"] == wanted.record.identity_id
    return Hit(result["image"], float(result["similarity"]), result["identity_name"], result["caption"], right)


def report(
    run: "Demo", metrics: Metrics, strata: Mapping[str, Metrics], queries: Sequence[Query], images: int
) -> Report:
    """Everything that the page shows."""
    rows = [
        Row([LABELS[name], *(cell(metrics[name], column) for column in COLUMNS)], ours=name == "conf1")
        for name in LABELS
    ]
    notes = [
        ratio_sentence(metrics),
        which_ranking(metrics),
        "Percent. Late fusion needs no training: the search service ranks so with any CLIP, the person being a word in the text. "
        f"Its weight ({metrics[CAPTION_AND_FACE]['face_weight']:g}) was tuned on the validation people. "
        "Where a face is detected, comparing faces directly is hard to beat; the table below shows where it is not.",
    ]
    return Report(
        title="A person in a context",
        summary="A face photo becomes one token of the sentence; the CLIP of this small drawn world stayed frozen, and "
        "the people below never occurred in training.",
        table=Table(["query", *COLUMNS.values()], rows, notes),
        strata=strata_table(strata),
        queries=queries,
        gallery_size=images,
        losses=read_losses(run.run_folder / "tensorboard"),
        commands=run.commands,
        footer="Made by `idclip demo`; no network, no pretrained download, all people and pictures are synthetic.",
    )


def strata_table(strata: Mapping[str, Metrics]) -> Table:
    """R@1 by kind of picture, one row a stratum."""
    names = list(strata["conf1"])
    rows = [
        Row([name.replace("=", ": "), f"{strata['conf1'][name]['images']:.0f}"]
            + [percent(strata[label][name]["t2i_R@1"]) for label in LABELS])
        for name in names
    ]  # fmt: skip
    return Table(["R@1, percent", "images", *LABELS.values()], rows)


def read_losses(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The contrastive loss that open_clip wrote for TensorBoard, by step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag == "train/contrastive_loss"]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}
