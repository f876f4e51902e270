"""`idclip evaluate`: shards and a model in, the tables of both retrieval protocols out.

Role: the verb, and `evaluate_shards` behind it for other programs. What is asked is in
`open_clip_idplugin.evaluation.protocols`, how shards are read in `evaluation_data`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from open_clip_idplugin import prompts
from open_clip_idplugin.checkpoints import LoadedModel, load_model
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.evaluation.protocols import PROTOCOLS, Results, Settings, run
from open_clip_idplugin.evaluation.rivals import FACE_WEIGHT, CaptionAndFace
from open_clip_idplugin.evaluation.tables import result_tables, to_console, write_results
from open_clip_idplugin.query_encoder import QueryEncoder
from webdataset_tools.evaluation_data import EncodedImages, Shards, detect_faces, encode_images, load_evaluation_set

SHOWN_SKIPPED = 10


@dataclass(frozen=True)
class Loading:
    """How images are read and encoded; limit: the first samples only."""

    batch_size: int = 256
    workers: int = 2
    limit: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("workers", 0), ("limit", 1)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < least):
                raise IdClipError(f"--{name} must be a whole number from {least} on, not {value!r}")


@dataclass(frozen=True)
class Rival:
    """Which "caption + face match" to set beside the model.

    engine: a spec such as insightface:miniature, or a loaded `faces.FaceEngine`
    weight: of the face match against the caption's cosine; None: tuned on `validation`, else `FACE_WEIGHT`
    validation: shards on which to tune
    det_size: of a spec's detector, None for its own default
    """

    engine: Any
    weight: float | None = None
    validation: Shards | None = None
    det_size: int | None = None


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate_shards` measured and on what: `ranking` is the rival's, None without one."""

    results: Results
    images: EncodedImages
    encoder: QueryEncoder
    ranking: CaptionAndFace | None = None


def evaluate(
    data: str,
    model: str,
    checkpoint: str | None = None,
    output: str | None = None,
    configurations: str = ",".join(prompts.CONFIGURATIONS),
    protocols: str = ",".join(PROTOCOLS),
    templates: str = "all",
    rival: str | None = None,
    rival_weight: float | None = None,
    rival_data: str | None = None,
    det_size: int | None = None,
    limit: int | None = None,
    batch_size: int = 256,
    device: str = "cpu",
    precision: str = "fp32",
    workers: int = 2,
    seed: int = 0,
) -> None:
    """Evaluate a model on shards: general and entity retrieval, for every way of writing the person.

    Args:
        data: shards (a tar, 'folder/{00000..00007}.tar', or a folder of tars).
        model: a model name, such as IdCLIP-ViT-B-32.
        checkpoint: a file, or a pretrained tag (then plain CLIP answers); without one the weights are random.
        output: a folder for results.json, results.csv and results.md.
        configurations: of captions, names, conf1 to conf6, separated by commas.
        protocols: of general, entity.
        templates: all 11 texts of a caption, or the numbers of some (0 is "An image with [ENTITY]. [CAPTION]").
        rival: a face engine (insightface:buffalo_l, insightface:miniature): adds the row "caption + face match".
        rival_weight: of the face match against the caption's cosine; 0.5 where it is neither given nor tuned.
        rival_data: validation shards on which to tune that weight.
        det_size: side of the square in which the rival's detector sees an image; None leaves it to the face engine.
        limit: use the first samples only.
        batch_size: images, and texts, encoded at once.
        device: cpu, cuda, ...
        precision: fp32, bf16, ...
        workers: processes that decode images.
        seed: of the templates drawn again for captions without a single keyword.
    """
    settings = Settings(
        configurations=_words(configurations),
        protocols=_words(protocols),
        templates=templates,
        seed=seed,
        device=device,
        progress=True,
    )
    loading = Loading(batch_size, workers, limit)
    if rival is None and (rival_weight is not None or rival_data is not None):
        raise IdClipError("--rival_weight and --rival_data need a face engine; give --rival, as insightface:buffalo_l")
    loaded = load_model(model, checkpoint, device=device, precision=precision)
    opponent = None if rival is None else Rival(rival, rival_weight, rival_data, det_size)
    evaluation = evaluate_shards(data, loaded, settings, loading, opponent)
    source = {"data": data, "model": model, "checkpoint": checkpoint, "precision": precision, "rival": rival}
    _print(evaluation)
    if output is not None:
        paths = write_results(output, evaluation.results, {**source, **_facts(evaluation.images), **asdict(settings)})
        print(f"\nWrote {', '.join(path.name for path in paths)} to {output}")
    flags = f"--model {model}" + (f" --checkpoint {checkpoint}" if checkpoint else "")
    print(f"\nNext: idclip index --images {data} {flags} --output INDEX")


def evaluate_shards(
    shards: Shards,
    loaded: LoadedModel,
    settings: Settings | None = None,
    loading: Loading | None = None,
    rival: Rival | None = None,
) -> Evaluation:
    """Encode the images of the shards and run the protocols, and the rival where one is given.

    With a rival the results are split by "face=detected" and "face=missed" as well.
    """
    settings, loading = settings or Settings(), loading or Loading()
    encoder = QueryEncoder(loaded, batch_size=loading.batch_size)
    images = _encode(shards, encoder, loaded, settings, loading)
    if rival is None:
        return Evaluation(run(images.evaluation_set, images.features, encoder, settings), images, encoder)
    rival = replace(rival, engine=_engine(rival))
    ranking = _rank_by_rival(rival, shards, images, encoder, settings)
    images = replace(images, evaluation_set=ranking.evaluation_set)
    results = run(images.evaluation_set, images.features, encoder, settings)
    theirs = ranking.results(_weight(rival, encoder, loaded, settings, loading))
    results.metrics.update(theirs.metrics)
    results.strata.update(theirs.strata)
    return Evaluation(results, images, encoder, ranking)


def _encode(
    shards: Shards, encoder: QueryEncoder, loaded: LoadedModel, settings: Settings, loading: Loading
) -> EncodedImages:
    skipped: dict[str, str] = {}
    asks_faces = any(prompts.needs_face(configuration) for configuration in settings.configurations)
    trained_with = loaded.face_model if asks_faces else None
    evaluation_set = load_evaluation_set(shards, loading.limit, skipped, trained_with)
    encoded = encode_images(
        shards, evaluation_set, encoder, loaded.preprocess, loading.batch_size, loading.workers, settings.progress
    )
    return replace(encoded, skipped=skipped | encoded.skipped)


def _engine(rival: Rival) -> Any:
    if not isinstance(rival.engine, str):
        return rival.engine
    from open_clip_idplugin.faces import load_face_engine

    return load_face_engine(rival.engine, rival.det_size)


def _rank_by_rival(
    rival: Rival, shards: Shards, images: EncodedImages, encoder: QueryEncoder, settings: Settings
) -> CaptionAndFace:
    detected = detect_faces(shards, images.evaluation_set, rival.engine, settings.progress)
    column = tuple("detected" if found else "missed" for found in detected.detected)
    split = replace(images.evaluation_set, groups={**images.evaluation_set.groups, "face": column})
    return CaptionAndFace.prepare(split, images.features, encoder, detected, settings)


def _weight(rival: Rival, encoder: QueryEncoder, loaded: LoadedModel, settings: Settings, loading: Loading) -> float:
    if rival.weight is not None:
        return rival.weight
    if rival.validation is None:
        return FACE_WEIGHT
    images = _encode(rival.validation, encoder, loaded, settings, loading)
    return _rank_by_rival(rival, rival.validation, images, encoder, settings).tune()


def _print(evaluation: Evaluation) -> None:
    print(f"\n{to_console(result_tables(evaluation.results))}")
    skipped = evaluation.images.skipped
    if skipped:
        print(f"\n{len(skipped)} samples were left out:")
        print("\n".join(f"  {key}: {reason}" for key, reason in list(skipped.items())[:SHOWN_SKIPPED]))
        if len(skipped) > SHOWN_SKIPPED:
            print(f"  ... and {len(skipped) - SHOWN_SKIPPED} more (all of them in results.json)")


def _facts(images: EncodedImages) -> Mapping[str, Any]:
    evaluation_set = images.evaluation_set
    return {
        "images": len(evaluation_set),
        "identities": len(set(evaluation_set.identity_ids)),
        "scenes": len(set(evaluation_set.image_ids)),
        "skipped": images.skipped,
    }


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in str(text).split(",") if word.strip())
