"""Which face model ids name one model: one rule, for whole ids, names and ids of earlier versions, and nobody has another."""

import ast
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from face_pack_fixtures import toy_picture, write_pack
from places import ROOT

from open_clip_idplugin.checkpoints.training_facts import require_face_model
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces import ModelMismatch, load_face_engine, same_model
from open_clip_idplugin.faces.model_identity import ModelIdentity, agreed_model, require_same_model
from open_clip_idplugin.gallery import Gallery, GalleryError
from open_clip_idplugin.storage.output_folder import claimed_folder
from webdataset_tools.collection_faces.build import FACES
from webdataset_tools.shard_folder import SHARDS

WHOLE = "insightface:buffalo_l/w600k_r50-4c06341c33c2"
OTHER = "insightface:buffalo_l/w600k_r50-ffffffffffff"


class TestRule:
    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (WHOLE, WHOLE),
            (WHOLE, "insightface:my copy/renamed-4c06341c33c2"),  # the same file in a folder of another name
            (WHOLE, "insightface:buffalo_l"),  # a name agrees with the models of that name
            (WHOLE, "insightface:./packs/buffalo_l"),
            (WHOLE, "insightface:buffalo_l/w600k_r50"),
            (WHOLE, None),
            (None, None),
            ("insightface:buffalo_l", "insightface:buffalo_l"),
            ("timm:vit-0123456789ab", "timm:vit-0123456789abcdef0123"),  # of before the description was part of ids
            ("arcface", "arcface"),
            ("arcface", "arcface/recogniser-0123456789ab"),
            ("outsiders:net v2", "outsiders:net v2"),
        ],
    )
    def test_one_model(self, one, other):
        assert same_model(one, other) and same_model(other, one)

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (WHOLE, OTHER),
            (WHOLE, "onnx:w600k_r50-4c06341c33c2"),  # the same file, but fed by another kind of engine
            (WHOLE, "insightface:buffalo_s"),
            (WHOLE, "insightface:buffalo"),  # no part of a name is the name
            (WHOLE, "opencv:buffalo_l"),
            ("insightface:buffalo_l", "insightface:buffalo_s"),
            ("timm:vit-0123456789ababcdef01", "timm:vit-0123456789ab0000ef01"),  # described otherwise
            ("outsiders:net", "outsiders:net/2"),  # neither is whole: both are just names
            ("arcface", "cosface"),
            ("", "arcface"),
        ],
    )
    def test_two_models(self, one, other):
        assert not same_model(one, other) and not same_model(other, one)

    @pytest.mark.parametrize(
        "text", [WHOLE, "timm:a+b@c-d-0123456789ab", "insightface:buffalo_l", "arcface", "a:b:c", ""]
    )
    def test_ids_are_written_as_they_are_read(self, text):
        assert str(ModelIdentity.parse(text)) == text

    def test_the_shipped_pack_keeps_its_id(self):
        """Galleries, tables and checkpoints of earlier versions hold it."""
        identity = ModelIdentity.parse(load_face_engine("insightface:miniature", threads=1).model_id)
        assert (identity.kind, identity.name) == ("insightface", "miniature/recogniser")
        assert len(identity.digest or "") == 12

    def test_the_most_exact_id_of_several(self):
        assert agreed_model([None, "insightface:buffalo_l", WHOLE, None, "insightface:buffalo_l"], "x") == WHOLE
        assert agreed_model([None, None], "x") is None
        with pytest.raises(
            ModelMismatch, match=r"embeddings of the shards come from.*4c06341c33c2' and '.*ffffffffffff'"
        ):
            agreed_model(["insightface:buffalo_l", WHOLE, OTHER], "the shards")  # a name agrees with both

    def test_both_ids_are_told(self):
        with pytest.raises(ModelMismatch, match="of a and b come from different models"):
            require_same_model(WHOLE, OTHER, "a and b")
        with pytest.raises(ModelMismatch, match="trained with embeddings of the face model"):
            require_face_model(WHOLE, OTHER, "these faces")
        require_face_model("insightface:buffalo_l", OTHER, "these faces")


class _Comparisons(ast.NodeVisitor):
    """Places where a model id is compared by hand."""

    def __init__(self):
        self.found: list[str] = []

    def visit_Compare(self, node):
        by_hand = (ast.Eq, ast.NotEq, ast.In, ast.NotIn)
        constants = [
            isinstance(side, ast.Constant) for side in node.comparators
        ]  # `is_column == "face_model"` and None
        names = {getattr(side, "attr", getattr(side, "id", "")) for side in [node.left, *node.comparators]}
        if names & {"model_id", "face_model", "trained_with"} and not all(constants):
            self.found += [ast.unparse(node) for operator in node.ops if isinstance(operator, by_hand)]
        self.generic_visit(node)


def test_nobody_else_compares_ids():
    found = {}
    for package in ("open_clip_idplugin", "webdataset_tools", "training_patches", "benchmarks"):
        for path in (ROOT / package).rglob("*.py"):
            visitor = _Comparisons()
            visitor.visit(ast.parse(path.read_text(encoding="utf-8")))
            if visitor.found:
                found[path.relative_to(ROOT).as_posix()] = visitor.found
    assert not found


def test_the_reader_of_comparisons_sees_them():
    visitor = _Comparisons()
    visitor.visit(
        ast.parse("a = x.model_id == y\nb = face_model in names\nc = model_id is None\nd = x.model_id not in (None, z)")
    )
    assert len(visitor.found) == 3


class TestSamePackElsewhere:
    """One recogniser file, in folders of two names: everything made with the one serves the other."""

    @pytest.fixture(scope="class")
    def engines(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("packs")
        write_pack(folder / "one")
        shutil.copytree(folder / "one", folder / "two")
        write_pack(folder / "three", seed=3)
        return [load_face_engine(f"insightface:{folder / name}", det_size=192) for name in ("one", "two", "three")]

    def test_ids_differ_in_the_name_alone(self, engines):
        one, two, three = (engine.model_id for engine in engines)
        assert one != two and same_model(one, two) and not same_model(one, three)

    def test_gallery(self, engines, tmp_path):
        one, two, three = engines
        gallery = Gallery(tmp_path / "gallery.sqlite")
        face = one.detect(toy_picture((64, 64)))[0]
        gallery.enroll("Ada", face.embedding, one.model_id)
        gallery.enroll("Ada", two.detect(toy_picture((32, 32), (96, 96)))[1].embedding, two.model_id)
        assert gallery.model_id == one.model_id and gallery.people()[0].photos == 2
        with pytest.raises(GalleryError, match="cannot be mixed"):
            gallery.enroll("Eve", face.embedding, three.model_id)
        with pytest.raises(GalleryError, match="cannot be compared"):
            gallery.require_model(three.model_id)

    @pytest.mark.parametrize(("kind", "parameter"), [(FACES, "model_id"), (SHARDS, "face_model")])
    def test_a_build_resumed_after_the_pack_moved(self, engines, tmp_path, kind, parameter):
        one, two, three = (engine.model_id for engine in engines)
        for model_id in (one, two):
            with claimed_folder(tmp_path / "out", {parameter: model_id}, kind):
                pass
        for other in (three, None):  # None: shards that do not say
            with pytest.raises(IdClipError, match=f"{parameter} was"):
                claimed_folder(tmp_path / "out", {parameter: other}, kind).__enter__()

    def test_a_table_of_a_pack_that_moved(self, engines, tmp_path):
        from open_clip_idplugin.faces.face_table import load_face_table

        one, two, three = (engine.model_id for engine in engines)
        write_table(tmp_path / "table", [one, two])
        assert load_face_table(tmp_path / "table", two).model_id == one
        write_table(tmp_path / "mixed", [one, three])
        with pytest.raises(ModelMismatch, match="holds faces of"):
            load_face_table(tmp_path / "mixed")

    def test_wrong_photos_of_a_person_are_not_looked_at(self, engines, tmp_path):
        """The gallery is asked before the work, not after it."""
        from open_clip_idplugin.gallery.verbs import enroll_photos

        one, _, three = engines
        gallery = Gallery(tmp_path / "gallery.sqlite")
        gallery.enroll("Ada", one.detect(toy_picture((64, 64)))[0].embedding, one.model_id)
        with pytest.raises(IdClipError, match="was made with the face model"):
            enroll_photos(gallery, "Eve", [str(tmp_path / "is not there.jpg")], three)


def write_table(folder: Path, model_ids: list[str]) -> None:
    """A face table with one face of each model; its metadata names the first."""
    import pyarrow.parquet as pq

    from open_clip_idplugin.faces.face_table import FaceRow, FaceTableInfo, rows_to_table

    box, points = np.zeros(4, np.float32), np.zeros((5, 2), np.float32)
    rows = [
        FaceRow(None, str(n), str(n), 0, box, points, 0.9, 64, 64, model_id, n) for n, model_id in enumerate(model_ids)
    ]
    folder.mkdir()
    pq.write_table(rows_to_table(rows), folder / "faces.parquet")
    np.save(folder / "embeddings.npy", np.eye(len(rows), 512, dtype=np.float32))
    info = FaceTableInfo(model_ids[0], 512, len(rows), len(rows), len(rows), "made here", "0")
    (folder / "metadata.json").write_text(info.to_json())
    assert json.loads(info.to_json())["model_id"] == model_ids[0]
