"""Evaluation on shards: shards, a loaded model, settings -> the rankings of both retrieval protocols, for other programs.

Role: the steps in their order, with the rankings by faces where a rival is given. What is asked is in
`open_clip_idplugin.evaluation.protocols`, how shards are read in `evaluation_data`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from open_clip_idplugin import prompts
from open_clip_idplugin.checkpoints.loading import LoadedModel
from open_clip_idplugin.command_line.verb_arguments import require_whole_number
from open_clip_idplugin.evaluation.face_scores import DetectedFaces
from open_clip_idplugin.evaluation.protocols import Asked, Results, Settings, ask, run
from open_clip_idplugin.evaluation.rivals import (
    CAPTION_AND_FACE,
    FILTER_FACES,
    HYBRID,
    FacedQueries,
    photo_results,
    rules_of,
    split_by_faces,
    untuned,
)
from open_clip_idplugin.faces.calibration import Calibration
from open_clip_idplugin.queries.fusion import WEIGHTED, Fusion
from open_clip_idplugin.queries.person_as import takes_stored_faces
from open_clip_idplugin.queries.query_encoder import QueryEncoder
from webdataset_tools.chosen_samples import Chosen
from webdataset_tools.evaluation_data import (
    EncodedImages,
    Shards,
    detect_faces,
    encode_images,
    load_evaluation_set,
)
from webdataset_tools.evaluation_facts import rival_facts
from webdataset_tools.photo_features import crop_features

CAPTIONS, BY_FACE = "captions", "conf1"


@dataclass(frozen=True)
class Loading:
    """How images are read and encoded; limit: the first samples only."""

    batch_size: int = 256
    workers: int = 2
    limit: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("workers", 0), ("limit", 1)):
            if name != "limit" or self.limit is not None:
                require_whole_number(f"--{name}", getattr(self, name), least)


@dataclass(frozen=True)
class Rival:
    """With which faces to rank beside the model, see `evaluation.rivals`.

    engine: a spec such as insightface:miniature, or a loaded `faces.FaceEngine`
    weight: of late fusion; None: tuned on `validation`, else `fusion.FACE_WEIGHT`
    validation: shards on which to tune all rules
    det_size: of a spec's detector, None for its own default
    """

    engine: Any
    weight: float | None = None
    validation: Shards | None = None
    det_size: int | None = None


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate_shards` measured and on what; facts: of the rival and its rules, see `evaluation_facts`."""

    results: Results
    images: EncodedImages
    encoder: QueryEncoder
    facts: Mapping[str, Any] = field(default_factory=dict)


def evaluate_shards(
    shards: Shards,
    loaded: LoadedModel,
    settings: Settings | None = None,
    loading: Loading | None = None,
    rival: Rival | None = None,
    chosen: Chosen | None = None,
) -> Evaluation:
    """Encode the images of the shards and run the protocols, and the rankings by faces where a rival is given.

    chosen: which samples of the shards, all by default. With a rival the results are split by "face=detected" and
    "face=missed" as well, and where conf1 is asked there is the hybrid of its score and the face match.
    """
    settings, loading = settings or Settings(), loading or Loading()
    encoder = QueryEncoder(loaded, batch_size=loading.batch_size)
    rival = None if rival is None else replace(rival, engine=_engine(rival))
    if (
        rival is not None and rival.validation is not None
    ):  # another face model is refused before the work, not after it
        load_evaluation_set(rival.validation, limit=1, skipped={}, rival=rival.engine.model_id)
    images = _encode(shards, encoder, loaded, settings, loading, rival, chosen)
    if rival is None:
        return Evaluation(run(images.evaluation_set, images.features, encoder, settings), images, encoder)
    faces = detect_faces(shards, images.evaluation_set, rival.engine, settings.progress)
    images = replace(images, evaluation_set=split_by_faces(images.evaluation_set, faces))
    kept = {name: Asked(None, None, None) for name in (CAPTIONS, BY_FACE) if name in settings.configurations}
    results = run(images.evaluation_set, images.features, encoder, settings, kept)
    side = _faced(images, faces, encoder, settings, kept)
    rules = _rules(rival, encoder, loaded, settings, loading, faces.calibration)
    for name, queries in side.items():
        results.update(queries.results(name, rules[name]))
    photos = crop_features(shards, images.evaluation_set, encoder, loaded.preprocess)
    if photos is not None:
        captions = side[CAPTION_AND_FACE].asked
        results.update(photo_results(images.evaluation_set, captions, images.features, photos, settings))
    told = rival_facts(rival.engine, rival.det_size, rival.validation, rival.weight, rules, faces.calibration)
    return Evaluation(results, images, encoder, told)


def _encode(
    shards: Shards,
    encoder: QueryEncoder,
    loaded: LoadedModel,
    settings: Settings,
    loading: Loading,
    rival: Rival | None = None,
    chosen: Chosen | None = None,
) -> EncodedImages:
    skipped: dict[str, str] = {}
    asks_faces = any(prompts.needs_face(configuration) for configuration in settings.configurations)
    trained_with = loaded.face_model if asks_faces else None
    looks = None if rival is None else rival.engine.model_id
    evaluation_set = load_evaluation_set(
        shards, loading.limit, skipped, trained_with, looks, chosen, takes_stored_faces(loaded.model)
    )
    encoded = encode_images(
        shards, evaluation_set, encoder, loaded.preprocess, loading.batch_size, loading.workers, settings.progress
    )
    return replace(encoded, skipped=skipped | encoded.skipped)


def _engine(rival: Rival) -> Any:
    if not isinstance(rival.engine, str):
        return rival.engine
    from open_clip_idplugin.faces import load_face_engine

    return load_face_engine(rival.engine, rival.det_size)


def _faced(
    images: EncodedImages,
    faces: DetectedFaces,
    encoder: QueryEncoder,
    settings: Settings,
    kept: Mapping[str, Asked] | None = None,
) -> dict[str, FacedQueries]:
    """The rankings by faces: of captions, and of conf1 where the settings ask for it."""
    sources = {FILTER_FACES: CAPTIONS, CAPTION_AND_FACE: CAPTIONS}
    if BY_FACE in settings.configurations:
        sources[HYBRID] = BY_FACE
    asked = dict(kept or {})
    for name in sources.values():
        if name not in asked:
            asked[name] = ask(images.evaluation_set, name, encoder, settings)
    return {
        name: FacedQueries.of(images.evaluation_set, asked[source], images.features, faces, settings)
        for name, source in sources.items()
    }


def _rules(
    rival: Rival,
    encoder: QueryEncoder,
    loaded: LoadedModel,
    settings: Settings,
    loading: Loading,
    calibration: Calibration,
) -> Mapping[str, Fusion]:
    """The rule of every ranking by faces: tuned on the validation shards where there are some."""
    rules = untuned(calibration)
    if rival.validation is not None and "general" in settings.protocols:
        images = _encode(rival.validation, encoder, loaded, settings, loading, rival)
        faces = detect_faces(rival.validation, images.evaluation_set, rival.engine, settings.progress)
        alone = replace(settings, protocols=("general",))
        tuned = _faced(images, faces, encoder, alone)
        rules |= {name: queries.tune(rules_of(calibration)[name]) for name, queries in tuned.items()}
    if rival.weight is not None:
        rules[CAPTION_AND_FACE] = replace(rules[CAPTION_AND_FACE], rule=WEIGHTED, weight=rival.weight)
    return rules
