"""Made-up cells of a benchmark, with everything that a cell can hold, for the tests of the report."""

from webdataset_tools.benchmark.cells import CellResult

RIVALS = ("filter by face, then CLIP text", "late fusion", "image search with the face photo", "mean of both")
STRATA = {"face=missed": 10, "face=detected": 90, "face_pixels=16-24": 40, "face_pixels=8-16": 60, "look_alike=yes": 25}
CURVES = {
    "people_per_scene": (1, 2, 5),
    "gallery_size": (50, 200, 1000),
    "face_pixels": (12, 20, 28),
    "enrolment_photos": (1, 2, 3),
}
# recipe -> query -> t2i R@1
WHOLE = {
    "clip": {"captions": 0.13, "names": 0.20, **dict(zip(RIVALS, (0.60, 0.66, 0.10, 0.15)))},
    "paper-adaptor": {"captions": 0.13, "names": 0.20, "conf1": 0.40, "conf4": 0.42},
    "paper": {"captions": 0.13, "names": 0.20, "conf1": 0.30, "conf1 best template": 0.35, "hybrid": 0.6},
    "sharp-scenes": {"captions": 0.13, "names": 0.20, "conf1": 0.50, "conf4": 0.45, "hybrid": 0.7},
}


def full_results(missed=None, keys=(), seeds=(0, 1), splits=("val", "test")):
    """Cells of four recipes.

    missed: query -> R@1 where no face is detected; keys: of images, for the failures
    """
    missed = {"late fusion": 0.1, "conf1": 0.4, "hybrid": 0.45} | (missed or {})
    return [
        CellResult(
            recipe,
            "why",
            seed,
            (),
            {split: _split(queries, 0.01 * seed, missed, keys) for split in splits},
            about={"processor_seconds": 50.0},
        )
        for recipe, queries in WHOLE.items()
        for seed in (seeds if recipe != "clip" else seeds[:1])
    ]


def _split(queries, more, missed, keys):
    values = {
        query: recall + (more if query.startswith(("conf", "hybrid")) else 0) for query, recall in queries.items()
    }
    metrics = {query: _metrics(recall, query != "captions") for query, recall in values.items()}
    strata = {
        query: {
            stratum: {
                "images": images,
                "queries": 5 * images,
                "t2i_R@1": missed.get(query, 0.05) if "missed" in stratum else recall,
            }
            for stratum, images in STRATA.items()
        }
        for query, recall in values.items()
    }
    curves = {
        name: {
            query: [[x, recall * (1 - 0.05 * place)] for place, x in enumerate(xs)] for query, recall in values.items()
        }
        for name, xs in CURVES.items()
    }
    failures = {}
    if "hybrid" in queries and keys:
        entry = {
            "query": "[TOK] <b>feeding</b> a horse",
            "identity": "n1",
            "key": keys[0],
            "rank": 37,
            "retrieved": list(keys[1:6]),
        }
        failures = {key: [entry] for key in ("conf1", "hybrid")}
    split = {"metrics": metrics, "strata": strata, "curves": curves, "failures": failures}
    if "hybrid" in queries:
        split["tuned"] = {"hybrid": {"rule": "weighted", "face_weight": 0.3}}
        split["best_template"] = {"index": 2, "text": "[ENTITY]. [CAPTION]"}
    return split


def _metrics(recall, names_somebody):
    general = {f"t2i_R@{k}": min(1.0, recall * (1 + place / 4)) for place, k in enumerate((1, 5, 10, 50))}
    entity = dict.fromkeys(("entity_R@1_kmin", "entity_R@5", "entity_R@10", "entity_R@50", "mAP@10"), recall / 10)
    return general | {"right_scene": 0.7, "right_person": recall} | (entity if names_somebody else {})
