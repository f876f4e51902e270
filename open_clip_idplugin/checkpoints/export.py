"""The verb `idclip export`: a trained checkpoint -> what can be passed on, a model folder or a small delta file.

Role: the form follows from the output's name; what is known of the training goes with it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from open_clip_idplugin.checkpoints.delta_files import weights_digest
from open_clip_idplugin.checkpoints.hub_files import DELTA, on_this_machine
from open_clip_idplugin.checkpoints.hub_files import PREFIX as HUB
from open_clip_idplugin.checkpoints.loading import (
    base_and_delta,
    checkpoint_path,
    export_delta,
    load_model,
    read_weights,
)
from open_clip_idplugin.checkpoints.model_card import Origin, evaluation_table, model_card
from open_clip_idplugin.checkpoints.model_folders import CARD, PREFIX, write_folder
from open_clip_idplugin.checkpoints.training_facts import TrainingFacts, facts_beside
from open_clip_idplugin.command_line.next_step import command
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.hosts.registration import add_models
from open_clip_idplugin.storage.atomic import PUBLIC, atomic_write
from open_clip_idplugin.storage.output_folder import require_free
from open_clip_idplugin.storage.weight_files import weight_shapes
from open_clip_idplugin.tokenizer import IdentityTokenizer
from open_clip_idplugin.weight_keys import has_adaptor


def export(
    model: str,
    checkpoint: str,
    output: str,
    base: str | None = None,
    licence: str | None = None,
    evaluation: str | None = None,
    model_config: str | None = None,
) -> None:
    """Write a trained IdCLIP as a folder that open_clip loads (local-dir:), or as a small file of what training changed.

    Args:
        model: open_clip's name of the model, as IdCLIP-ViT-L-14-336-quickgelu.
        checkpoint: the trained weights: epoch_N.pt, best.pt or a delta file (also hf-hub:OWNER/NAME).
        output: a name that ends in .safetensors for the small file, FOLDER/idclip_delta.safetensors for one that is a
            repository of a model hub as it is; any other is a new folder.
        base: tag (openai) or file of the plain weights that training began from; None takes what training noted.
        licence: of the exported model, for its card, as mit or cc-by-nc-4.0; None leaves it to be filled in.
        evaluation: results.json that `idclip evaluate` wrote about this checkpoint, for the card.
        model_config: JSON file, or folder of them, that describes models of your own (see docs/own_models.md).
    """
    if model_config is not None:
        add_models(model_config)
    if output.endswith(".safetensors"):
        _export_small_file(model, checkpoint, Path(output), base, licence, evaluation)
        return
    facts = export_folder(model, checkpoint, Path(output), base, licence, evaluation)
    _tell_unknown(facts.face_model, licence)
    print(f"{output}: {model}, whole; say in {Path(output) / CARD} what was trained on")
    print(f"Next: {command('evaluate', data='SHARDS', model=f'{PREFIX}{output}')}")


def export_folder(
    model: str, checkpoint: str | Path, output: Path, base: str | None = None, licence: str | None = None,
    evaluation: str | None = None,
) -> TrainingFacts:  # fmt: skip
    """Write a self-contained folder (see `model_folders`) and return what is known of the training.

    base: the plain weights, whose digest then stands in the model card; without it the name that training noted. Raises
    IdClipError as `load_model` does, for weights without an adaptor and for an output that is there already.
    """
    require_free(output)
    origin = _origin(checkpoint, licence, evaluation)
    loaded = load_model(model, str(checkpoint))
    path, delta = base_and_delta(model, str(checkpoint))
    trained = delta is not None or has_adaptor(weight_shapes(checkpoint_path(model, path)))
    if not isinstance(loaded.tokenizer, IdentityTokenizer) or not trained:
        raise IdClipError(f"{checkpoint} holds no adaptor for {model}; give the checkpoint of a trained IdCLIP model.")
    facts = replace(origin.facts, model=model, face_model=loaded.face_model)
    if delta is not None:
        facts = replace(facts, view=delta.view)
    digest = None
    if base is not None:
        facts, digest = replace(facts, base=base), weights_digest(read_weights(checkpoint_path(model, base)))
    elif delta is not None:
        facts, digest = replace(facts, base=delta.base), delta.base_digest
    write_folder(output, loaded.model, loaded.tokenizer, model, replace(origin, facts=facts, base_digest=digest))
    return facts


def _export_small_file(
    model: str, checkpoint: str, output: Path, base: str | None, licence: str | None, evaluation: str | None
) -> None:
    origin, for_hub = _origin(checkpoint, licence, evaluation), output.name == DELTA
    if for_hub and output.with_name(CARD).exists():
        raise IdClipError(
            f"{output.with_name(CARD)} is there already, and would be the card; name a folder without one."
        )
    base = base or origin.facts.base
    if base is None:
        raise IdClipError(
            f"nothing beside {checkpoint} says which weights its training began from; name their tag or file with --base."
        )
    delta = export_delta(model, checkpoint, base, output)
    card, facts = (
        output.with_name(CARD) if for_hub else output.with_suffix(".md"),
        replace(origin.facts, base=delta.base, face_model=delta.face_model),
    )
    origin = replace(origin, facts=facts, base_digest=delta.base_digest)
    title = output.absolute().parent.name if for_hub else output.stem
    atomic_write(card, model_card(title, model, delta.identity_cfg, origin, output.name), PUBLIC)
    _tell_unknown(delta.face_model, licence)
    print(f"{output}: {len(delta.tensors)} tensors, {output.stat().st_size / 1e6:.1f} MB, to be put on {delta.base}")
    print(f"{card}: its model card; say there what was trained on")
    if for_hub:
        print(f"To publish: hf upload OWNER/NAME {output.parent}, then --checkpoint {HUB}OWNER/NAME loads it anywhere")
    print(f"Next: {command('evaluate', data='SHARDS', model=model, checkpoint=output)}")


def _origin(checkpoint: str | Path, licence: str | None, evaluation: str | None) -> Origin:
    """What is known before anything is loaded; raises IdClipError for a licence or an evaluation that cannot stand in a card."""
    here = on_this_machine(str(checkpoint))
    weights = Path(here if Path(here).is_file() else here.rpartition("+")[2])
    table = None if evaluation is None else evaluation_table(Path(evaluation), weights)
    return Origin(facts_beside(weights), None, licence, table)


def _tell_unknown(face_model: str | None, licence: str | None) -> None:
    if face_model is None:
        print("The face model of the training is not recorded (its shards do not name one, or they stand elsewhere).")
    if licence is None:
        print("The model card names no licence: give one with --licence, or fill it in before you pass the model on.")
