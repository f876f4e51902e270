"""The hybrid of the evaluation ranks as the search service does."""

from types import SimpleNamespace

import numpy as np
import pytest
from evaluation_fixtures import BagOfWords, small_set, unit

from open_clip_idplugin import fusion
from open_clip_idplugin.evaluation.face_scores import DetectedFaces
from open_clip_idplugin.evaluation.metrics import top_k
from open_clip_idplugin.evaluation.protocols import Settings, ask
from open_clip_idplugin.evaluation.rivals import FacedQueries
from open_clip_idplugin.fusion import Fusion

pytest.importorskip("faiss", reason="clip-retrieval is not installed")
from open_clip_idplugin.retrieval.face_index import FaceIndex, FaceIndexInfo
from open_clip_idplugin.retrieval.query_parts import Alternative, Persons, QueryParts
from open_clip_idplugin.retrieval.ranking import Searched, rank
from open_clip_idplugin.retrieval.ranking_request import RankingRequest


@pytest.mark.parametrize("rule", fusion.RULES)
def test_the_hybrid_ranks_as_the_service(rule):
    evaluation_set, images = small_set(noise=1.0)
    # No two faces are quite the same: ranks of equal ones would depend on how sums are rounded.
    seen = unit(evaluation_set.faces + 0.05 * np.random.default_rng(1).standard_normal((9, 16)))
    faces = DetectedFaces.from_lists([[] if row in (2, 7) else [face] for row, face in enumerate(seen)], 16)
    settings = Settings(("conf1",), ("general",), 0)
    asked = ask(evaluation_set, "conf1", BagOfWords(), settings)
    hybrid = FacedQueries.of(evaluation_set, asked, images, faces, settings)
    order = top_k(hybrid.scores(Fusion(rule, weight=0.4, threshold=0.5, unseen=0.3)), 9)

    count = len(faces.embeddings)
    info = FaceIndexInfo("test", 16, count, 9, count, "", "")
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
        assert len(served) == 9 or rule == fusion.FILTER
        assert order[query, : len(served)].tolist() == served.tolist()  # a filter of the service leaves the others out
