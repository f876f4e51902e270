"""The verb `idclip evaluate`: shards and a model -> the tables of both retrieval protocols.

Role: the flags and what is printed and written; the work is in `shard_evaluation`.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from open_clip_idplugin import prompts
from open_clip_idplugin.checkpoints.loading import LoadedModel, load_model
from open_clip_idplugin.command_line.devices import AUTO, resolve_device
from open_clip_idplugin.command_line.next_step import command
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.evaluation.protocols import PROTOCOLS, REFERENCE_WAYS, Settings
from open_clip_idplugin.evaluation.tables import result_tables, to_console, write_results
from open_clip_idplugin.queries.person_as import takes_faces, why_no_token
from open_clip_idplugin.storage.locations import make_folder
from webdataset_tools.chosen_samples import choose_samples
from webdataset_tools.evaluation_data import (
    EncodedImages,
    Shards,
    face_model_of,
)
from webdataset_tools.evaluation_facts import asked_facts, file_facts, general_facts, model_facts
from webdataset_tools.shard_evaluation import Evaluation, Loading, Rival, evaluate_shards

SHOWN_SKIPPED = 10


def evaluate(
    data: str,
    model: str,
    checkpoint: str | None = None,
    output: str | None = None,
    configurations: str | None = None,
    protocols: str = ",".join(PROTOCOLS),
    templates: str = "all",
    rival: str | None = None,
    rival_weight: float | None = None,
    rival_data: str | None = None,
    det_size: int | None = None,
    limit: int | None = None,
    batch_size: int = 256,
    device: str = AUTO,
    precision: str = "fp32",
    workers: int = 2,
    seed: int = 0,
    model_config: str | None = None,
    split: str | None = None,
    features: str | None = None,
    as_reference: str = "",
) -> None:
    """Evaluate a model on shards: general and entity retrieval, for every way of writing the person.

    Args:
        data: shards (a tar, 'folder/{00000..00007}.tar', or a folder of tars).
        model: a model name, such as IdCLIP-ViT-B-32, or any other of open_clip.
        checkpoint: a file, hf-hub:OWNER/NAME, or a pretrained tag (then plain CLIP answers); without one the weights are random.
        output: a folder for results.json, results.csv and results.md.
        configurations: of captions, names, conf1 to conf6, separated by commas; by default all, or captions and names alone
            where the model can make no identity token of the shards' faces.
        protocols: of general, entity.
        templates: all 11 texts of a caption, or the numbers of some (0 is "An image with [ENTITY]. [CAPTION]").
        rival: a face engine (insightface:buffalo_l, insightface:miniature): adds rankings by detected faces and face photos.
        rival_weight: of the face match in late fusion; 0.5 where it is neither given nor tuned.
        rival_data: validation shards on which to tune weights and thresholds.
        det_size: side of the square in which the rival's detector sees an image; None takes the face engine's own.
        limit: use the first samples only.
        batch_size: images, and texts, encoded at once.
        device: auto (CUDA where torch has one, else the CPU), cpu, cuda or cuda:N.
        precision: fp32, bf16, ...
        workers: processes that decode images.
        seed: of the templates drawn again for captions without a single keyword.
        model_config: JSON file, or folder of them, that describes models of your own (see docs/own_models.md).
        split: name of the split; without --features only the samples that were packed as it are used.
        features: a split of your own among the samples of the shards: JSON file with <image id>_<identity id> -> face embedding
            in the release's form; its keys are the split, and its embeddings take the place of the samples' own.
        as_reference: what to do as the paper's reference implementation does it: all, or some of first_face, hidden_token,
            articles, separated by commas (see docs/reproduce.md).
    """
    device = str(resolve_device(device))
    settings = Settings(
        configurations=prompts.CONFIGURATIONS if configurations is None else _words(configurations),
        protocols=_words(protocols),
        templates=templates,
        seed=seed,
        device=device,
        progress=True,
        as_reference=REFERENCE_WAYS if as_reference == "all" else _words(as_reference),
    )
    loading = Loading(batch_size, workers, limit)
    if rival is None and (rival_weight is not None or rival_data is not None):
        raise IdClipError("--rival_weight and --rival_data need a face engine; give --rival, as insightface:buffalo_l")
    if output is not None:
        make_folder(Path(output))  # what cannot be written to is refused before the work
    face_model, face_size = face_model_of(data)
    chosen = choose_samples(split, features, face_size)
    loaded = load_model(model, checkpoint, device=device, precision=precision, configs=model_config)
    settings = _askable(settings, loaded, data, configurations is not None)
    opponent = None if rival is None else Rival(rival, rival_weight, rival_data, det_size)
    evaluation = evaluate_shards(data, loaded, settings, loading, opponent, chosen)
    _print(evaluation)
    if output is not None:
        source = {
            "data": data,
            "split": split,
            "features": file_facts(features),
            "face_model": face_model,
            "limit": limit,
        }
        facts = {
            **source,
            **model_facts(loaded),
            **_facts(evaluation.images),
            **asked_facts(settings),
            **general_facts(),
        }
        paths = write_results(output, evaluation.results, {**facts, "rival": rival, **evaluation.facts})
        print(f"\nWrote {', '.join(path.name for path in paths)} to {output}")
    given = {
        "model": model,
        "checkpoint": checkpoint,
        "model_config": model_config,
        "precision": precision,
    }
    print(f"\nNext: {command('index', images=data, **given, output='INDEX')}")


def _askable(settings: Settings, loaded: LoadedModel, data: Shards, named: bool) -> Settings:
    """The settings without configurations that need an identity token where none can be made.

    named: somebody chose the configurations. A plain model cannot be asked for them; an adaptor that was not trained can, as a
    baseline.
    """
    tokens = [configuration for configuration in settings.configurations if prompts.needs_face(configuration)]
    if not tokens or (named and takes_faces(loaded)):
        return settings
    why_not = why_no_token(loaded, *face_model_of(data), unit_faces=False)
    if why_not is None:
        return settings
    if named:
        raise IdClipError(
            f"{', '.join(tokens)} need an identity token, but {why_not}: give --configurations captions,names, and --rival for "
            "late fusion, which is how such a model finds people"
        )
    print(f"Without {', '.join(tokens)}, which need an identity token: {why_not}.")
    return replace(settings, configurations=tuple(name for name in settings.configurations if name not in tokens))


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
