"""The model card of an exported model: what is known of it -> the text of a README.md as model hubs show it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from open_clip_idplugin.checkpoints.training_facts import TrainingFacts
from open_clip_idplugin.config import IdentityConfig
from open_clip_idplugin.errors import IdClipError

_CARD = """---
library_name: open_clip
pipeline_tag: zero-shot-image-classification
license: {licence_id}
tags:
- clip
- idclip
- cross-modal-retrieval
---
# {title}

An IdCLIP: a CLIP whose text tower also takes the embedding of a face, so that images are found of a person in a context
("[TOK] hitting a ball on the court"). Nothing is trained again for a new person.

## What it is made of

| | |
|---|---|
| model | `{model}` |
| base weights | {base} |
| SHA-256 of the base weights | {digest} |
| face model | {face_model} |
| face embedding | {face_dim} numbers |
| image index | {index} |

Parts that it adds to CLIP (`identity_cfg`):

{parts}

Training flags:

{recipe}

## Use

{use}

Face embeddings must come from the face model named above; vectors of another one mean nothing to this model.

## Intended use and limits

* For searching one's own pictures for people who agreed to be searched for. Face embeddings are biometric data: enrolling
  somebody needs a legal basis and, in most places, consent.
* Not for identifying strangers, surveillance, or decisions about people. A ranking is no proof of who is in a picture.
* Face models recognise some groups of people better than others, and this model inherits it. Measure it on your own data
  (`idclip evaluate` reports groups where they are known).
* The text side knows what its base CLIP knows, with the same gaps and biases.

## Licence

{licence}
"""

_FOLDER_USE = """\
    import open_clip, open_clip_idplugin
    model, _, preprocess = open_clip.create_model_and_transforms("local-dir:FOLDER")
    tokenizer = open_clip.get_tokenizer("local-dir:FOLDER")
    query = tokenizer(["[TOK] hitting a ball on the court"], faces=face_embedding)
    similarity = model.encode_image(images, normalize=True) @ model.encode_text(query, normalize=True).T

`local-dir:` wants open_clip 3; `open_clip_idplugin.load_model("local-dir:FOLDER")` and the flag `--model local-dir:FOLDER` of
`idclip` work with open_clip 2 as well, and check the weights against their digest."""

_DELTA_USE = """\
`{file}` holds what training changed; it is put on the base weights named above, and refuses others:

    import open_clip_idplugin
    loaded = open_clip_idplugin.load_model("{model}", "{base}+{file}")
    query = loaded.tokenizer(["[TOK] hitting a ball on the court"], faces=face_embedding)
    similarity = loaded.model.encode_image(images, normalize=True) @ loaded.model.encode_text(query, normalize=True).T

The flags of `idclip` are `--model {model} --checkpoint {base}+{file}`."""

_OTHERS = """\
The weights combine the work of others. The base weights keep their own licence; so does the face model, and many face models
are for non-commercial research only; the training pictures may add terms of their own."""
_STATED = "Passed on under `{licence}`, by the word of whoever exported it."
_NOT_STATED = "Fill in what applies before you pass this model on (`idclip export --licence`)."


@dataclass(frozen=True)
class Origin:
    """Where a model comes from and how it may be passed on.

    base_digest: of the plain weights, None where they were not at hand. licence: identifier as model hubs write it
    ("mit", "cc-by-nc-4.0"), None where nobody stated one. Raises IdClipError for another form of it.
    """

    facts: TrainingFacts
    base_digest: str | None = None
    licence: str | None = None

    def __post_init__(self) -> None:
        if self.licence is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", self.licence):
            raise IdClipError(f"the licence must be an identifier such as mit or cc-by-nc-4.0, not {self.licence!r}.")


_OWN_INDEX = "its own: the image tower has parts that plain CLIP lacks"
_SHARED_INDEX = "where training locked the image tower, one made with the base weights serves"


def model_card(title: str, model: str, config: IdentityConfig, origin: Origin, delta_file: str | None = None) -> str:
    """`title`: heading; model: open_clip's name; delta_file: name of the file that the card is of, None for a folder."""
    facts, licence = origin.facts, origin.licence
    use = _FOLDER_USE if delta_file is None else _DELTA_USE.format(file=delta_file, model=model, base=facts.base)
    return _CARD.format(
        title=title,
        model=model,
        base=f"`{facts.base}`" if facts.base else "not recorded",
        digest=f"`{origin.base_digest}`" if origin.base_digest else "not computed",
        face_model=f"`{facts.face_model}`" if facts.face_model else "not recorded",
        face_dim=config.face_dim,
        index=_OWN_INDEX if config.changes_image_features else _SHARED_INDEX,
        parts=_table(("option", "value"), config.to_dict()),
        recipe=_table(("flag", "value"), facts.recipe) if facts.recipe else "Not recorded.",
        use=use,
        licence_id=(licence or "other").lower(),
        licence=f"{_STATED.format(licence=licence) if licence else _NOT_STATED} {_OTHERS}",
    )


def _table(head: tuple[str, str], rows: Mapping[str, Any]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    lines += [f"| `{name}` | {_cell(value)} |" for name, value in rows.items()]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
