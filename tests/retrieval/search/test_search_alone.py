"""`idclip search` on an index folder with the extra `search` alone: no clip-retrieval, no Flask, any open_clip and NumPy."""

import numpy as np
import pytest

pytest.importorskip("faiss")

from face_index_fixtures import unit, write_face_table

from open_clip_idplugin import cli
from open_clip_idplugin.checkpoints.loading import load_model
from open_clip_idplugin.gallery import Gallery
from open_clip_idplugin.queries.query_encoder import QueryEncoder
from open_clip_idplugin.retrieval.face_index.build import add_faces
from open_clip_idplugin.retrieval.ranking.local_model import LocalModel
from open_clip_idplugin.retrieval.search.command import Query, SearchFailed, search_folder

pytestmark = pytest.mark.host

IDENTITY, FACE_MODEL, DIM = "IdCLIP-ViT-tiny", "test faces", 16
CAPTIONS = ("a woman feeding a horse", "a red bicycle", "a boat on a lake", "a dog in the snow", "an empty street")
ADA = unit(np.eye(DIM)[:1])[0]


@pytest.fixture(scope="module")
def archive(tiny_identity_models, plain_weights, tmp_path_factory):
    """Folder with an index in clip-retrieval's layout whose images have their captions' vectors; Ada is in 0 and 3."""
    import faiss
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("alone")
    model, weights = tiny_identity_models[IDENTITY], str(plain_weights(IDENTITY)[1])
    vectors = QueryEncoder(load_model(model, weights)).encode(list(CAPTIONS))
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    place = folder / "index"
    for part in ("img_emb", "metadata"):
        (place / part).mkdir(parents=True)
    faiss.write_index(index, str(place / "image.index"))
    np.save(place / "img_emb" / "img_emb_0.npy", vectors)
    keys = [f"picture{number}" for number in range(len(CAPTIONS))]
    table = {"image_path": keys, "caption": list(CAPTIONS), "year": [1950, 1960, 1970, 1980, 1990]}
    pq.write_table(pa.table(table), place / "metadata" / "metadata_0.parquet")
    other = unit(np.eye(DIM)[2:3])[0]
    faces = {keys[0]: [ADA], keys[3]: [other, unit(ADA + 0.1 * other)]}
    add_faces(place, write_face_table(folder / "table", faces, FACE_MODEL, DIM))
    Gallery(folder / "people.sqlite").enroll("Ada Lovelace", ADA, FACE_MODEL)
    return folder, LocalModel(model, weights, gallery=str(folder / "people.sqlite"))


def test_a_text_finds_its_image(archive):
    folder, setup = archive
    for number, caption in enumerate(CAPTIONS):
        results = search_folder(str(folder / "index"), Query(caption, num_images=3), setup)
        assert results[0]["caption"] == caption and len(results) == 3
        assert results[0]["similarity"] == pytest.approx(1, abs=1e-5) and results[0]["key"] == f"picture{number}"


def test_a_person_finds_her_pictures_first(archive):
    folder, setup = archive
    query = Query("Ada Lovelace in the snow", num_images=5, options={"filters": {"year": {"min": 1940}}})
    results = search_folder(str(folder / "index"), query, setup)
    assert {result["key"] for result in results[:2]} == {"picture0", "picture3"} and len(results) == 5
    assert results[0]["matched"][0]["name"] == "Ada Lovelace" and results[0]["face_similarity"] > 0.9
    assert results[0]["person_as"] == "words" and "'a person in the snow'" in results[0]["why"]
    alone = search_folder(str(folder / "index"), Query("", options={"people": {"all": ["Ada Lovelace"]}}), setup)
    assert {result["key"] for result in alone[:2]} == {"picture0", "picture3"}


def test_what_only_clip_retrieval_does_is_refused(archive):
    folder, setup = archive
    query = Query("Ada Lovelace in the snow", options={"deduplicate": True})
    with pytest.raises(SearchFailed, match=r"'deduplicate'.* are clip-retrieval's: ask a service"):
        search_folder(str(folder / "index"), query, setup)


def test_the_verb(archive, capsys, tmp_path):
    folder, setup = archive
    words = ["search", "Ada Lovelace in the snow", "--index", str(folder / "index"), "--model", setup.model]
    words += ["--checkpoint", setup.checkpoint, "--gallery", setup.gallery, "--output", str(tmp_path / "page.html")]
    assert cli.run(cli.VERBS, [*words, "--where", "year=1980..1990"], "idclip") == 0
    assert "picture3" in capsys.readouterr().out.splitlines()[0] and (tmp_path / "page.html").exists()
