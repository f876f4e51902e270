"""Query encoding of people: texts with placeholders + faces -> vectors, the people as identity tokens, words or both.

Role: texts with placeholders + people -> vectors. A token needs an adaptor that was trained with the face model of the faces;
`why_no_token` is the only place that says whether there is one. Words name nobody: who uses them must rank by faces.
"""

from collections.abc import Sequence

import numpy as np

from open_clip_idplugin.checkpoints.loading import LoadedModel
from open_clip_idplugin.config import STORED, IdentityConfig
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.faces.model_identity import same_model
from open_clip_idplugin.queries.person_words import AUTO, BOTH, TOKEN, WORDS, in_words
from open_clip_idplugin.queries.query_encoder import QueryEncoder, unit_rows
from open_clip_idplugin.tokenizer import placeholders_of, require_places


def takes_faces(loaded: LoadedModel) -> bool:
    """Whether a model has an adaptor at all, trained or not."""
    return isinstance(getattr(loaded.model, "identity_cfg", None), IdentityConfig)


def takes_stored_faces(model: object) -> bool:
    """Whether a model's adaptor takes face embeddings in the length that the data have."""
    config = getattr(model, "identity_cfg", None)
    return isinstance(config, IdentityConfig) and config.face_length == STORED


def why_no_token(
    loaded: LoadedModel, face_model: str | None = None, face_size: int | None = None, unit_faces: bool = True
) -> str | None:
    """Why a model can make no identity token of faces, as a clause of a sentence; None where it can.

    Args:
        loaded: an adaptor counts as trained where its weights came from a file or tag. Whether those weights were trained
            cannot be seen.
        face_model: of the faces; what is not known agrees with every adaptor.
        face_size: numbers of a face embedding, where known.
        unit_faces: whether the faces are unit vectors, as galleries and face engines give them.
    """
    if not takes_faces(loaded):
        return f"{loaded.name} is a plain CLIP, which has no identity token"
    if not loaded.adaptor_loaded:
        return f"the adaptor of this {loaded.name} was not trained: its weights are plain CLIP's or random"
    if not same_model(loaded.face_model, face_model):
        return (
            f"the adaptor of this {loaded.name} was trained for faces of '{loaded.face_model}', and these come from "
            f"'{face_model}'"
        )
    if unit_faces and takes_stored_faces(loaded.model):
        return (
            f"the adaptor of this {loaded.name} takes face embeddings in the length that its training data had (face_length "
            "stored), which galleries do not keep"
        )
    takes = loaded.model.identity_cfg.face_dim
    if face_size not in (None, takes):
        return f"the adaptor of this {loaded.name} takes {takes} numbers a face, and these have {face_size}"
    return None


def choose(asked: str, why_not: str | None) -> str:
    """What was asked for (one of `person_words.CHOICES`) -> TOKEN, WORDS or BOTH.

    Args:
        asked: AUTO is the token where one can be made, else words.
        why_not: as `why_no_token` says.

    Raises:
        IdClipError: a token was asked for, and none can be made.
    """
    if asked == AUTO:
        return TOKEN if why_not is None else WORDS
    if asked != WORDS and why_not is not None:
        raise IdClipError(
            f"'person_as': '{asked}' needs an identity token, but {why_not}: ask with 'words' or 'auto', or load an IdCLIP "
            "that was trained with this face model"
        )
    return asked


def encode_people(
    encoder: QueryEncoder,
    person_as: str,
    groups: Sequence[Sequence[str]],
    faces: Sequence[np.ndarray],
    words: Sequence[Sequence[str]],
) -> np.ndarray:
    """Queries of one or more texts each -> [G, E] float32 unit rows.

    Args:
        encoder: of any open_clip model for WORDS, of an IdCLIP for the others.
        person_as: TOKEN, WORDS, or BOTH, which is the mean of the two unit vectors, scaled to unit length.
        groups: G lists of texts (see `QueryEncoder.encode_ensemble`); each text has a placeholder for every person.
        faces: [P, D] float32 for each group; P may be 0.
        words: P words for each group, as `person_words.in_words` takes them.

    Raises:
        IdClipError: placeholders and people of a text do not fit together.
    """
    for texts, rows in zip(groups, faces, strict=True):
        for number, text in enumerate(texts):
            require_places(text, number, placeholders_of(text, number), rows)
    if not any(map(len, faces)):
        return encoder.encode_ensemble(groups)
    vectors = []
    if person_as in (TOKEN, BOTH):
        vectors.append(encoder.encode_ensemble(groups, list(faces)))
    if person_as in (WORDS, BOTH):
        plain = [[in_words(text, some) for text in texts] for texts, some in zip(groups, words, strict=True)]
        vectors.append(encoder.encode_ensemble(plain))
    return vectors[0] if len(vectors) == 1 else unit_rows(np.mean(vectors, axis=0))
