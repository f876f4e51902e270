"""The batch container for texts about people: token ids with placeholders, the faces, and where each face goes.

Role: carries what the tokenizer made through DataLoader workers, pinning, open_clip's unmodified training loop and a
model's `encode_text`. Imports torch and nothing heavier.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
import torch.nn.functional as F

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.prompts import PLACEHOLDER as PLACEHOLDER

UNKNOWN_IDENTITY = -1


def identity_key(identity_id: str) -> int:
    """A stable, non-negative 63-bit number for an identity's name, so that identities travel in tensors."""
    digest = hashlib.blake2b(identity_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@dataclass(frozen=True, eq=False)
class IdentityText:
    """A batch of B texts of L tokens, with up to F faces of D numbers a text.

    tokens [B, L] int64: ids of the base tokenizer; at a placeholder stands an ordinary filler below EOT.
    faces [B, F, D] float32: face embeddings, rows of zeros where a text has fewer than F faces.
    slots [B, L] int64: 0 = ordinary token; 1 + f * n + j = j-th identity token (of n = tokens_per_identity) of face f.
    identity_ids [B] int64: `identity_key` of the person the text is about, or -1.
    tokens_per_identity: the n by which slots are counted; a model refuses texts made for another n.
    labels: name -> tensor [B, ...] that a loss needs to know of each text; IdCLIP returns them beside its features.
    """

    tokens: torch.Tensor
    faces: torch.Tensor
    slots: torch.Tensor
    identity_ids: torch.Tensor
    tokens_per_identity: int = 1
    labels: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = self.tokens.shape[0] if self.tokens.ndim == 2 else None
        if (
            rows is None
            or self.slots.shape != self.tokens.shape
            or self.faces.ndim != 3
            or self.faces.shape[0] != rows
            or self.identity_ids.shape != (rows,)
            or any(label.shape[:1] != (rows,) for label in self.labels.values())
        ):
            raise IdClipError(
                "IdentityText needs tokens [B, L], faces [B, F, D], slots [B, L], identity_ids [B] and labels [B, ...], not "
                f"{_shapes(self.tokens, self.faces, self.slots, self.identity_ids, **self.labels)}."
            )

    @property
    def shape(self) -> torch.Size:
        """(B, L), as of the token tensor."""
        return self.tokens.shape

    @property
    def device(self) -> torch.device:
        """Where all four tensors are."""
        return self.tokens.device

    def __len__(self) -> int:
        return int(self.tokens.shape[0])

    def to(self, device: Any = None, dtype: torch.dtype | None = None, non_blocking: bool = False) -> IdentityText:
        """Move to `device`. `dtype` is accepted because hosts pass it, and ignored: ids stay int64 and faces float32."""
        if device is None or isinstance(device, torch.dtype):
            return self
        return self._map(lambda tensor: tensor.to(device=device, non_blocking=non_blocking))

    def pin_memory(self) -> IdentityText:
        """Copy to page-locked memory (a DataLoader with `pin_memory=True` calls this)."""
        return self._map(lambda tensor: tensor.pin_memory())

    def __getitem__(self, index: int | slice | Sequence[int] | torch.Tensor) -> IdentityText:
        """Some of the rows; an int gives a batch of one."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"row {index} of an IdentityText of {len(self)}")
            index = index % len(self)
            rows: Any = slice(index, index + 1)
        elif isinstance(index, slice):
            rows = index
        else:
            rows = torch.as_tensor(index, device=self.device)
            rows = rows.reshape(-1) if rows.dtype == torch.bool else rows.reshape(-1).long()
        return self._map(lambda tensor: tensor[rows])

    def cut(self, length: int) -> IdentityText:
        """Keep the first `length` tokens of every row; raises IdClipError if a placeholder would be lost."""
        if length < self.slots.shape[1] and bool(self.slots[:, length:].any()):
            raise IdClipError(f"a cut at {length} tokens would lose a {PLACEHOLDER}; keep more tokens.")
        return replace(self, tokens=self.tokens[:, :length], slots=self.slots[:, :length])

    def to_dict(self) -> dict[str, Any]:
        """Its fields as plain tensors by name (`labels` again a dictionary); `IdentityText(**fields)` takes them back."""
        return {part.name: getattr(self, part.name) for part in fields(self)}

    @staticmethod
    def collate(texts: Sequence[IdentityText]) -> IdentityText:
        """Join batches (of one or more) into one; shorter rows get padding tokens (id 0), fewer faces get rows of zeros."""
        if not texts:
            raise IdClipError("IdentityText.collate needs at least one text.")
        length = max(text.tokens.shape[1] for text in texts)
        most_faces = max(text.faces.shape[1] for text in texts)
        sizes = {text.faces.shape[2] for text in texts}
        if len(sizes) > 1:
            raise IdClipError(f"face embeddings of different sizes ({sorted(sizes)}) cannot be one batch.")
        if len({text.tokens_per_identity for text in texts}) > 1:
            raise IdClipError("texts tokenized for models with different tokens_per_identity cannot be one batch.")
        names = texts[0].labels.keys()
        if any(text.labels.keys() != names for text in texts):
            raise IdClipError("texts with different labels cannot be one batch.")
        return IdentityText(
            torch.cat([F.pad(text.tokens, (0, length - text.tokens.shape[1])) for text in texts]),
            torch.cat([F.pad(text.faces, (0, 0, 0, most_faces - text.faces.shape[1])) for text in texts]),
            torch.cat([F.pad(text.slots, (0, length - text.slots.shape[1])) for text in texts]),
            torch.cat([text.identity_ids for text in texts]),
            texts[0].tokens_per_identity,
            {name: torch.cat([text.labels[name] for text in texts]) for name in names},
        )

    def _map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> IdentityText:
        return IdentityText(
            function(self.tokens),
            function(self.faces),
            function(self.slots),
            function(self.identity_ids),
            self.tokens_per_identity,
            {name: function(label) for name, label in self.labels.items()},
        )

    def __repr__(self) -> str:
        shapes = _shapes(self.tokens, self.faces, self.slots, self.identity_ids, **self.labels)
        return f"IdentityText({shapes}, device={str(self.device)!r})"


def _shapes(
    tokens: torch.Tensor, faces: torch.Tensor, slots: torch.Tensor, identity_ids: torch.Tensor, **labels: torch.Tensor
) -> str:
    named = {"tokens": tokens, "faces": faces, "slots": slots, "identity_ids": identity_ids, **labels}
    return ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in named.items())
