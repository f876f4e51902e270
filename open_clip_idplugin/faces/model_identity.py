"""Face model identity: model ids -> whether they name one face model, so that their embeddings may be compared.

Role: the one rule, used by every gallery, table, index, shard, checkpoint and query. A whole id is `<kind>:<name>-<digest>`,
such as `insightface:buffalo_l/w600k_r50-4c06341c33c2`. Kind and digest are the model; the name is for people, so that the same
file in a folder of another name is the same model. The digest is 12 hex digits of the weights' SHA-256; where the embeddings
hang on a description beside the weights too, 8 more of that. An id without a digest is a name, such as
`insightface:buffalo_l`, and agrees with the models of that name.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from open_clip_idplugin.faces.errors import ModelMismatch
from open_clip_idplugin.storage.file_hash import file_sha256
from open_clip_idplugin.storage.finite_json import json_text

WEIGHT_DIGITS, DESCRIPTION_DIGITS = 12, 8
_WHOLE = re.compile(rf"(?P<name>.+)-(?P<digest>[0-9a-f]{{{WEIGHT_DIGITS},64}})", re.DOTALL)


@dataclass(frozen=True)
class ModelIdentity:
    """What a model id says. `digest`: None in an id that is a name only."""

    kind: str
    name: str
    digest: str | None = None

    @classmethod
    def parse(cls, model_id: str) -> "ModelIdentity":
        """Read any text that a file may hold; one of another form is a name without a digest."""
        kind, separator, rest = model_id.partition(":")
        kind, rest = (kind, rest) if separator else ("", model_id)
        whole = _WHOLE.fullmatch(rest)
        return cls(kind, rest) if whole is None else cls(kind, whole["name"], whole["digest"])

    def __str__(self) -> str:
        kind = f"{self.kind}:" if self.kind else ""
        return f"{kind}{self.name}" + (f"-{self.digest}" if self.digest else "")

    def agrees(self, other: "ModelIdentity") -> bool:
        """Whether both are one model, as far as both tell."""
        if self.digest and other.digest:
            shared = min(
                len(self.digest), len(other.digest)
            )  # ids of before a description was part of them are shorter
            return self.kind == other.kind and self.digest[:shared] == other.digest[:shared]
        if self.digest or other.digest:
            whole, short = (self, other) if self.digest else (other, self)
            return whole.kind == short.kind and short._names(whole)
        return self == other

    def _names(self, whole: "ModelIdentity") -> bool:
        """Whether this name is the whole id's, or that of the pack which its file lies in."""
        own = PurePath(self.name).name if self.name.startswith((".", "~", "/")) else self.name  # a folder, as in a spec
        return whole.name == own or whole.name.startswith(f"{own}/")


def same_model(one: str | None, other: str | None) -> bool:
    """Whether embeddings with these model ids may be compared; what is not known (None) agrees with everything."""
    return one is None or other is None or ModelIdentity.parse(one).agrees(ModelIdentity.parse(other))


def require_same_model(first: str | None, second: str | None, what: str) -> None:
    """Refuse to go on where both model ids are known and differ; `what` names the two places ("the table and the query").

    Raises:
        ModelMismatch: with both ids.
    """
    if not same_model(first, second):
        raise ModelMismatch(
            f"The face embeddings of {what} come from different models, '{first}' and '{second}', and cannot be "
            "compared; embed both with the same face model."
        )


def agreed_model(model_ids: Iterable[str | None], what: str) -> str | None:
    """The one model of several ids, in the most exact form among them; None where none is known.

    Raises:
        ModelMismatch: two of them differ; `what` names whose embeddings they are ("the training shards").
    """
    known: str | None = None
    for model_id in model_ids:
        require_same_model(known, model_id, what)
        known = model_id if _exactness(model_id) > _exactness(known) else known
    return known


def weights_hash(*files: Path) -> str:
    """12 hex digits of the SHA-256 of a model's weights; more than one file where a graph keeps its tensors apart."""
    return file_sha256(*files)[:WEIGHT_DIGITS]


def description_hash(description: Mapping[str, Any]) -> str:
    """8 hex digits for what else decides about the embeddings: how crops are cut, scaled and fed; values as JSON has them."""
    text = json_text(description, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DESCRIPTION_DIGITS]


def _exactness(model_id: str | None) -> int:
    return -1 if model_id is None else len(ModelIdentity.parse(model_id).digest or "")
