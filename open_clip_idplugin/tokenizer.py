"""Texts with `[TOK]` and face embeddings -> `IdentityText`; plain texts -> exactly what open_clip makes of them.

A placeholder becomes n ordinary token ids (n = tokens_per_identity), all below EOT and none of them padding, because
text towers find EOT as the highest id: a new special token would be taken for it. Where the faces go is kept beside
the ids, in `slots`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from open_clip_idplugin.config import IdentityConfig
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.identity_text import PLACEHOLDER, UNKNOWN_IDENTITY, IdentityText, identity_key
from open_clip_idplugin.prompts import PLACEHOLDERS, placeholder_numbers
from open_clip_idplugin.token_splicing import Splicer, splicer_for


class IdentityTokenizer:
    """Wraps the tokenizer that open_clip gives for a model; whatever is not overridden here passes through to it."""

    def __init__(self, base: Any, identity_cfg: IdentityConfig, model_name: str = "") -> None:
        """Wrap `base`, a tokenizer of open_clip: called with (texts, context_length) it returns [B, L] int64."""
        self.base = base
        self.identity_cfg = identity_cfg
        self.model_name = model_name

    def __call__(
        self,
        texts: str | Sequence[str],
        context_length: int | None = None,
        *,
        faces: Any = None,
        identity_ids: Sequence[str] | None = None,
    ) -> torch.Tensor | IdentityText:
        """Tokenize B texts.

        faces: embeddings for the placeholders (numpy, torch or lists of floats): [D] = the one person of every text;
        [B, D]; [B, F, D], where a row of zeros is no face; or a list of B entries, each None, [D] or [F_i, D].
        `[TOK]` and `[TOK:1]` take the first face of their text, `[TOK:2]` the second. identity_ids: whom each text is
        about, for training. Returns the base tokenizer's [B, L] int64 for plain texts without faces, else an
        IdentityText. Raises IdClipError where placeholders and faces do not fit together, or a placeholder would be
        truncated away.
        """
        several = [texts] if isinstance(texts, str) else list(texts)
        named = [placeholders_of(text, row) for row, text in enumerate(several)]
        if faces is None and identity_ids is None and not any(named):
            return self.base(texts, context_length)
        if isinstance(texts, str) and faces is not None and _dimensions(faces) == 2:
            faces = [faces]
        per_text = faces_per_text(faces, len(several), self.identity_cfg.face_dim)
        for row, text in enumerate(several):
            require_places(text, row, named[row], per_text[row])
        tokens, slots = self._tokens_and_slots(several, named, context_length)
        keys = _keys(identity_ids, len(several))
        padded = _padded(per_text, self.identity_cfg.face_dim)
        return IdentityText(tokens, padded, slots, keys, self.identity_cfg.tokens_per_identity)

    def _tokens_and_slots(
        self, texts: list[str], named: list[list[int]], context_length: int | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        plain_rows = [row for row in range(len(texts)) if not named[row]]
        spliced_rows = [row for row in range(len(texts)) if named[row]]
        length = context_length or self.base.context_length
        tokens = torch.zeros(len(texts), length, dtype=torch.int64)
        slots = torch.zeros(len(texts), length, dtype=torch.int64)
        if plain_rows:
            tokens[plain_rows] = self.base([texts[row] for row in plain_rows], context_length).long()
        for row in spliced_rows:
            tokens[row], slots[row] = self._splice(texts[row], named[row], length)
        return tokens, slots

    def _splice(self, text: str, faces: list[int], length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """One text with placeholders -> tokens [L], slots [L]."""
        count = self.identity_cfg.tokens_per_identity
        pieces = [self._splicer.encode(piece) for piece in PLACEHOLDERS.split(text)]
        ids, marks = list(pieces[0]), [0] * len(pieces[0])
        for face, piece in zip(faces, pieces[1:], strict=True):
            ids += [self._splicer.filler] * count + piece
            marks += [1 + face * count + step for step in range(count)] + [0] * len(piece)
        room = max(length - self._splicer.special_tokens, 0)
        if any(marks[room:]):
            last = len(marks) - next(step for step, mark in enumerate(reversed(marks)) if mark)
            raise IdClipError(
                f"the text {_short(text)} is too long: its last placeholder ends at token {last}, but {room} tokens fit "
                "before the end of the text; shorten what stands before the placeholder."
            )
        return self._splicer.finish(ids[:room], length), self._splicer.finish_slots(marks[:room], length)

    @functools.cached_property
    def _splicer(self) -> Splicer:
        return splicer_for(self.base)

    def __getattr__(self, name: str) -> Any:
        """Everything else (context_length, encode, decode, vocab_size ...) is the base tokenizer's."""
        if name == "base" or name.startswith("__"):  # not yet there while unpickling
            raise AttributeError(name)
        return getattr(self.base, name)

    def __repr__(self) -> str:
        return f"IdentityTokenizer({type(self.base).__name__}, model_name={self.model_name!r})"


def placeholders_of(text: str, row: int = 0) -> list[int]:
    """Numbers of the placeholders of text `row`, in order, counted from 0; raises IdClipError where they are not from 1 on."""
    if not isinstance(text, str):
        raise IdClipError(f"text {row} must be a string, not {type(text).__name__}.")
    numbers = placeholder_numbers(text)
    if 0 in numbers:
        raise IdClipError(f"text {row} ({_short(text)}) has [TOK:0], but faces are counted from [TOK:1].")
    return [number - 1 for number in numbers]


def faces_per_text(faces: Any, count: int, face_dim: int) -> list[np.ndarray]:
    """Any accepted form of `faces` -> one float32 array [F_i, D] a text (F_i may be 0).

    Raises IdClipError on a wrong number of entries, a wrong embedding size or numbers that are not finite.
    """
    if faces is None:
        return [np.zeros((0, face_dim), np.float32)] * count
    if isinstance(faces, (list, tuple)) and not (faces and isinstance(faces[0], (int, float))):
        entries = list(faces)
    else:
        stacked = _array(faces)
        if stacked.ndim == 0 or stacked.ndim > 3:
            raise IdClipError(f"faces must be [D], [B, D] or [B, F, D], not of shape {list(stacked.shape)}.")
        entries = [stacked] * count if stacked.ndim == 1 else list(stacked)
    if len(entries) != count:
        raise IdClipError(
            f"faces has {len(entries)} entries for {count} texts; give one entry a text, None for no face."
        )
    return [_one_text(entry, row, face_dim) for row, entry in enumerate(entries)]


def _one_text(entry: Any, row: int, face_dim: int) -> np.ndarray:
    if entry is None:
        return np.zeros((0, face_dim), np.float32)
    rows = _array(entry)
    rows = rows[None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or (rows.size and rows.shape[1] != face_dim):
        raise IdClipError(
            f"the face embedding of text {row} has shape {list(rows.shape)}, but this model takes embeddings of "
            f"{face_dim} numbers."
        )
    if not np.isfinite(rows).all():
        raise IdClipError(f"the face embedding of text {row} holds numbers that are not finite.")
    return rows.reshape(-1, face_dim)


def _array(values: Any) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        return values.detach().to("cpu", torch.float32).numpy()
    try:
        return np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise IdClipError(f"a face embedding must be an array of numbers: {error}.") from error


def _dimensions(faces: Any) -> int:
    """Dimensions of `faces`; 0 where it is a ragged list or holds None."""
    if isinstance(faces, (list, tuple)):
        if any(entry is None for entry in faces):
            return 0
        inner = {_dimensions(entry) for entry in faces}
        return 1 + inner.pop() if len(inner) == 1 else 0
    return int(getattr(faces, "ndim", 0))


def require_places(text: str, row: int, named: list[int], faces: np.ndarray) -> None:
    """Every placeholder needs a face, every face a placeholder; raises IdClipError. Rows of zeros at the end are padding."""
    given = int(np.flatnonzero(faces.any(axis=1))[-1]) + 1 if faces.any() else 0
    wanted = set(named)
    without = sorted(number for number in wanted if number >= given or not faces[number].any())
    if without:
        placeholder = PLACEHOLDER if without[0] == 0 else f"[TOK:{without[0] + 1}]"
        raise IdClipError(
            f"text {row} ({_short(text)}) holds {placeholder}, but has {given} face(s); pass a face embedding for it in "
            "`faces`."
        )
    unused = sorted(set(range(given)) - wanted)
    if unused and not wanted:
        raise IdClipError(
            f"text {row} ({_short(text)}) has a face, but no {PLACEHOLDER}; write {PLACEHOLDER} where the person belongs, or "
            "pass None for its face."
        )
    if unused:
        raise IdClipError(
            f"text {row} ({_short(text)}) has {given} faces, but names only {len(wanted)}; write [TOK:{unused[0] + 1}] as well, "
            "or leave out the face."
        )


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


def _padded(per_text: list[np.ndarray], face_dim: int) -> torch.Tensor:
    """List of [F_i, D] -> [B, F, D] float32 with rows of zeros."""
    most = max((len(faces) for faces in per_text), default=0)
    stacked = np.zeros((len(per_text), most, face_dim), np.float32)
    for row, faces in enumerate(per_text):
        stacked[row, : len(faces)] = faces
    return torch.from_numpy(stacked)


def _keys(identity_ids: Sequence[str] | None, count: int) -> torch.Tensor:
    if identity_ids is None:
        return torch.full((count,), UNKNOWN_IDENTITY, dtype=torch.int64)
    if isinstance(identity_ids, str) or len(identity_ids) != count:
        raise IdClipError(f"identity_ids must be a list of {count} names, one a text, not {identity_ids!r}.")
    return torch.tensor([identity_key(name) for name in identity_ids], dtype=torch.int64)
