"""What a cell of the benchmark measures beyond the protocols: choices on validation, shared faces, photos and costs."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from evaluation_fixtures import BagOfWords, small_set, unit
from PIL import Image
from training_fixtures import small_world, write_shards

from benchmarks.recipes import bench_faces
from benchmarks.recipes.bench_faces import BenchFaces
from benchmarks.recipes.cell_training import training_command
from benchmarks.recipes.cells import Bench, Cell, CellResult
from benchmarks.recipes.choices import best_template, first_share, one_caption_each
from benchmarks.recipes.cost import Cost, training_cost
from benchmarks.recipes.evaluating import Evaluator
from benchmarks.recipes.recipes import PAPER, PLAIN
from benchmarks.recipes.world import World
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.evaluation.protocols import Settings, ask
from webdataset_tools.evaluation_data import load_evaluation_set

FACE_DIM = 512


class KnownFaces:
    """A face engine that finds one face in every second picture; counts what it looked at."""

    model_id, embedding_size = "test", FACE_DIM

    def __init__(self):
        self.seen = 0

    def detect_many(self, pictures):
        self.seen += len(pictures)
        face = SimpleNamespace(embedding=unit(np.ones(FACE_DIM)), box=np.array([0, 0, 9, 30.0]))
        return [[face] if number % 2 else [] for number in range(len(pictures))]

    def the_face(self, path):
        self.seen += 1
        if "blurred" in path.name:
            raise IdClipError("no face")
        return SimpleNamespace(embedding=unit(np.full(FACE_DIM, 1.0 + len(path.name))))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Three splits of 9 images, and two photos of every person of val and test, one of them without a face."""
    place = World(tmp_path_factory.mktemp("world"))
    for number, split in enumerate(("train", "val", "test")):
        samples = [
            replace(
                sample, record=replace(sample.record, attributes={"photo": "one.jpg", "yaw": 70.0, "face_height": 30})
            )
            for sample in small_world(first_person=10 * number, people=3, scenes=3, face_dim=FACE_DIM)
        ]
        write_shards(place.shards(split), samples, shards=1)
        for sample in samples:
            folder = place.photos / sample.record.identity_id
            folder.mkdir(parents=True, exist_ok=True)
            for name in ("one.jpg", "blurred.jpg"):
                Image.new("RGB", (64, 64), (int(folder.name[1:]), 0, 0)).save(folder / name)
    return place


@pytest.fixture
def bench(world, tmp_path, monkeypatch):
    engine = KnownFaces()
    monkeypatch.setattr(BenchFaces, "_engine", engine)
    settings = Bench(tmp_path, world, "IdCLIP-ViT-miniature", "miniature", ("captions", "names", "conf1"))
    return SimpleNamespace(settings=settings, engine=engine)


def test_faces_are_found_once_and_kept_in_private(bench):
    evaluation_set = load_evaluation_set(bench.settings.world.shards("val"))
    found = BenchFaces(bench.settings).detected("val", evaluation_set)
    assert found.detected.tolist() == [False, True] * 4 + [False] and set(found.heights) == {30}
    assert bench.engine.seen == 9
    again = BenchFaces(bench.settings).detected("val", evaluation_set)
    assert bench.engine.seen == 9 and np.array_equal(again.embeddings, found.embeddings)
    files = list((bench.settings.output / bench_faces.FOLDER).iterdir())
    assert len(files) == 1 and files[0].stat().st_mode & 0o777 == 0o600
    files[0].write_bytes(b"damaged")
    with pytest.raises(IdClipError, match="delete it"):
        BenchFaces(bench.settings).detected("val", evaluation_set)


def test_photos_without_a_face_are_not_enrolled(bench):
    evaluation_set = load_evaluation_set(bench.settings.world.shards("test"))
    faces = BenchFaces(bench.settings)
    enrolled = faces.enrolled("test", evaluation_set)
    assert set(enrolled) == set(evaluation_set.identity_ids)
    assert {len(rows) for rows in enrolled.values()} == {1}
    photos = faces.photos("test", evaluation_set)
    assert [path.parent.name for path in photos] == list(evaluation_set.identity_ids)
    assert {path.name for path in photos} == {"one.jpg"}


@pytest.mark.host
def test_plain_clip_has_the_rivals_as_rows(bench):
    from open_clip_idplugin.checkpoints.loading import load_model

    documents = Evaluator(bench.settings).evaluate(Cell(PLAIN, 0), load_model("IdCLIP-ViT-miniature", "miniature"))
    assert list(documents) == ["val", "test"]
    rivals = {"filter by face, then CLIP text", "late fusion", "image search with the face photo", "mean of both"}
    for document in documents.values():
        assert (
            set(document["metrics"])
            == {"captions", "names"} | rivals
            == set(document["strata"])
            == set(document["failures"])
        )
        assert {"face=missed", "face_pixels=20-39", "facing=away"} <= set(document["strata"]["late fusion"])
        assert set(document["curves"]["gallery_size"]) == set(document["metrics"]) and "best_template" not in document
    assert documents["test"]["tuned"] == documents["val"]["tuned"]
    # how many photos a person has is asked on the last split alone
    assert set(documents["test"]["curves"]["enrolment_photos"]) == {"filter by face, then CLIP text", "late fusion"}
    assert "enrolment_photos" not in documents["val"]["curves"]


def test_one_caption_each_takes_turns():
    evaluation_set, _ = small_set()
    few = one_caption_each(evaluation_set)
    assert few.captions[0] == ("A man runs on the beach",) and few.captions[1] == ("someone running",)
    assert few.captions[6] == ("Two people eat",)


def test_the_best_template_is_that_with_the_best_recall():
    evaluation_set, images = small_set(noise=2.0)
    found = best_template(evaluation_set, images, BagOfWords(), "conf1")
    few = one_caption_each(evaluation_set)
    shares = [
        first_share(ask(few, "conf1", BagOfWords(), Settings(("conf1",), ("general",), number)), images)
        for number in range(11)
    ]
    assert len(set(shares)) > 1 and found == shares.index(max(shares))


def test_the_cost_of_training_is_taken_from_where_it_was_noted(bench):
    cell = Cell(PAPER, 0)
    assert training_cost(cell, bench.settings) == Cost()
    command = tuple(training_command(cell, bench.settings))
    earlier = CellResult(
        "paper", "", 0, command, {}, {"training": 30.0, "evaluation": 10.0}, {"processor_seconds": 20.0}
    )
    earlier.write(cell.result_file(bench.settings).with_name("paper-seed0-earlier.json"))
    other = replace(earlier, command=(*command[:4], "other"), seconds={"training": 99.0})
    other.write(cell.result_file(bench.settings).with_name("paper-seed0-other.json"))
    assert training_cost(cell, bench.settings) == Cost(30.0, 15.0)
    Cost(7.0, 6.0).write(cell.cost_file(bench.settings))
    assert training_cost(cell, bench.settings) == Cost(7.0, 6.0)
    cell.cost_file(bench.settings).write_text("{")
    with pytest.raises(IdClipError, match="damaged"):
        training_cost(cell, bench.settings)
