"""What is measured is what is served: the evaluation's hybrid and late fusion rank as the search service does."""

from types import SimpleNamespace

import numpy as np
import pytest
from evaluation_fixtures import BagOfWords, small_set, unit

from open_clip_idplugin.evaluation.face_scores import DetectedFaces
from open_clip_idplugin.evaluation.metrics import top_k
from open_clip_idplugin.evaluation.protocols import Settings, ask
from open_clip_idplugin.evaluation.rivals import CAPTION_AND_FACE, FacedQueries, untuned
from open_clip_idplugin.faces import load_face_engine
from open_clip_idplugin.faces.calibration_files import load_calibration
from open_clip_idplugin.gallery import Gallery
from open_clip_idplugin.queries import fusion
from open_clip_idplugin.queries.fusion import Fusion
from open_clip_idplugin.queries.query_encoder import QueryEncoder
from webdataset_tools.evaluation_data import detect_faces, encode_images, load_evaluation_set
from webdataset_tools.miniature import demo_steps as steps
from webdataset_tools.miniature.release_plan import ReleaseSize, SplitSize

pytest.importorskip("clip_retrieval", reason="clip-retrieval is not installed")
from open_clip_idplugin.retrieval.face_index.build import read_keys
from open_clip_idplugin.retrieval.face_index.reading import FaceIndex, FaceIndexInfo
from open_clip_idplugin.retrieval.ranking.query_parts import Alternative, Persons, QueryParts
from open_clip_idplugin.retrieval.ranking.query_people import People
from open_clip_idplugin.retrieval.ranking.ranking import Searched, rank
from open_clip_idplugin.retrieval.ranking.ranking_request import RankingRequest
from open_clip_idplugin.retrieval.service.app import create_app
from webdataset_tools.miniature import demo_results

DLIB = "dlib:dlib_face_recognition_resnet_model_v1-55533b28a958"


@pytest.mark.parametrize("model", ["test", DLIB])
@pytest.mark.parametrize("rule", fusion.RULES)
def test_the_hybrid_ranks_as_the_service(rule, model):
    """On ArcFace's scale, and on that of dlib, whose different people have cosines of 0.84."""
    evaluation_set, images = small_set(noise=1.0)
    # No two faces are quite the same: ranks of equal ones would depend on how sums are rounded.
    seen = unit(evaluation_set.faces + 0.05 * np.random.default_rng(1).standard_normal((9, 16)))
    scale = load_calibration(model)
    faces = DetectedFaces.from_lists(
        [[] if row in (2, 7) else [face] for row, face in enumerate(seen)], 16, None, scale
    )
    settings = Settings(("conf1",), ("general",), 0)
    asked = ask(evaluation_set, "conf1", BagOfWords(), settings)
    hybrid = FacedQueries.of(evaluation_set, asked, images, faces, settings)
    order = top_k(hybrid.scores(Fusion.of(scale, rule, weight=0.4, threshold=0.5, unseen=0.3)), 9)

    count = len(faces.embeddings)
    info = FaceIndexInfo(model, 16, count, 9, count, "", "")
    arrays = {"embeddings": faces.embeddings, "rows": faces.image_of_face}
    arrays |= {"boxes": np.zeros((count, 4)), "sizes": np.ones((count, 2))}
    stored = SimpleNamespace(get=lambda rows: images[rows])
    searched = Searched(SimpleNamespace(ntotal=9), stored, FaceIndex(info, arrays, None))
    request = RankingRequest(fusion=rule, face_weight=0.4, face_threshold=0.5, unseen_face=0.3)
    for query, owner in enumerate(asked.queries.image_of_query):
        person = Persons(("somebody",), evaluation_set.faces[[owner]])
        vector = asked.features[asked.queries.text_of_query[query]]
        parts = QueryParts((Alternative(vector, person),), Persons((), np.zeros((0, 16), np.float32)), None, True)
        served = rank(parts, request, False, searched, 9).rows
        assert order[query].tolist() == served.tolist()


SMALL = ReleaseSize(SplitSize(4, 8), SplitSize(4, 8), SplitSize(16, 8), faces_per_scene=2, photos_per_person=2)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """`idclip demo` of a small world with the shipped CLIP, whose adaptor nobody trained: the run, the model and a client."""
    from open_clip_idplugin.checkpoints.loading import load_model
    from webdataset_tools.miniature.release_writer import write_release

    run = steps.Demo(tmp_path_factory.mktemp("demo"), seed=0, workers=1, epochs=1)
    write_release(run.release, SMALL, seed=3, workers=1, face_model=steps.FACES)
    steps.pack(run)
    loaded = load_model(steps.MODEL, "miniature")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps.Demo, "checkpoint", "miniature")
        demo_results.searchable(run, loaded)
    demo_results.add_faces(run)
    people = People(Gallery(str(run.gallery)))
    return run, loaded, create_app({"index": run.index}, loaded, people).test_client()


def test_words_rank_as_the_evaluations_late_fusion_on_the_demos_index(demo):
    run, loaded, client = demo
    shards, gallery = str(run.shards("test")), Gallery(str(run.gallery))
    found = load_evaluation_set(shards)
    engine = load_face_engine(steps.FACES, det_size=steps.DETECTOR_SIDE)
    faces = detect_faces(shards, found, engine, progress=False)
    enrolled = {name: gallery.embedding(name) for name in gallery.names()}
    settings = Settings(("captions",), ("general",), 0)
    encoder = QueryEncoder(loaded)
    encoded = encode_images(shards, found, encoder, loaded.preprocess, workers=0, progress=False).features
    # The index keeps half precision, which would decide between images that are nearly equal.
    keys = read_keys(run.index)
    stored = np.load(run.index / "img_emb" / "img_emb_000000.npy").astype(np.float32)[
        [keys.index(key) for key in found.keys]
    ]
    np.testing.assert_allclose(stored, encoded, atol=1e-3)
    asked = ask(found, "captions", encoder, settings)
    own = np.stack([enrolled.get(name, face) for name, face in zip(found.names, found.faces, strict=True)])
    late_fusion = FacedQueries(found, asked, stored, faces, own, settings)
    order = top_k(late_fusion.scores(untuned(faces.calibration)[CAPTION_AND_FACE]), len(found))
    texts = late_fusion.queries
    known = [query for query, owner in enumerate(texts.image_of_query) if found.names[owner] in enrolled]
    assert len(known) > 40
    for query in known[::3]:
        owner = texts.image_of_query[query]
        body = {"text": texts.texts[texts.text_of_query[query]], "people": {"all": [found.names[owner]]}}
        answer = client.post(
            "/knn-service", json={**body, "include_images": False, "num_images": len(found)}
        ).get_json()
        assert {result["person_as"] for result in answer} == {"words"}
        assert [result["key"] for result in answer] == [found.keys[row] for row in order[query]], body
