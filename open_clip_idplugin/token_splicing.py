"""How a text with foreign tokens in it is put together by the rules of one of open_clip's tokenizers.

Pieces of text -> ids, then ids -> a row of L ids with the tokenizer's own start, end and padding tokens, truncated as
the tokenizer truncates: the end token always stays. One splicer for open_clip's SimpleTokenizer, one for its wrapper
of Hugging Face tokenizers.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch

from open_clip_idplugin.errors import IdClipError

# The id of this word stands where an identity token will be; any ordinary word would do.
_FILLER_WORD = "person"
_PROBE = "a person"


class Splicer(Protocol):
    """What the identity tokenizer needs to know about a base tokenizer."""

    filler: int
    special_tokens: int

    def encode(self, piece: str) -> list[int]:
        """A piece of text -> ids without special tokens."""
        ...

    def finish(self, ids: list[int], length: int) -> torch.Tensor:
        """At most `length - special_tokens` ids -> [length] int64 with special tokens and padding."""
        ...

    def finish_slots(self, marks: list[int], length: int) -> torch.Tensor:
        """Marks beside the ids -> [length] int64, zero at special tokens and padding."""
        ...


def splicer_for(base: Any) -> Splicer:
    """The splicer for a tokenizer of open_clip; raises IdClipError for a kind that is not known."""
    if all(hasattr(base, name) for name in ("encode", "sot_token_id", "eot_token_id")):
        return _SimpleSplicer(base)
    if hasattr(base, "tokenizer") and hasattr(base, "clean_fn"):
        return _HubSplicer(base)
    raise IdClipError(f"placeholders are not supported with a {type(base).__name__}; plain texts are.")


class _Framed:
    """Special tokens in front of and behind the ids, then padding."""

    def __init__(self, before: list[int], after: list[int], padding: int, last: int | None = None) -> None:
        self.before, self.after, self.padding, self.last = before, after, padding, last
        self.special_tokens = len(before) + len(after) + (last is not None)

    def finish(self, ids: list[int], length: int) -> torch.Tensor:
        """See Splicer."""
        row = torch.full((length,), self.padding, dtype=torch.int64)
        framed = [*self.before, *ids, *self.after]
        row[: len(framed)] = torch.tensor(framed, dtype=torch.int64)
        if self.last is not None:
            row[-1] = self.last
        return row

    def finish_slots(self, marks: list[int], length: int) -> torch.Tensor:
        """See Splicer."""
        row = torch.zeros(length, dtype=torch.int64)
        start = len(self.before)
        row[start : start + len(marks)] = torch.tensor(marks, dtype=torch.int64)
        return row


class _SimpleSplicer(_Framed):
    """open_clip's own byte-pair tokenizer: start, ids, end, zeros."""

    def __init__(self, base: Any) -> None:
        super().__init__([base.sot_token_id], [base.eot_token_id], padding=0)
        self._base = base
        self.filler = int(base.encode(_FILLER_WORD)[0])

    def encode(self, piece: str) -> list[int]:
        """See Splicer."""
        return list(self._base.encode(piece))


class _HubSplicer(_Framed):
    """open_clip's HFTokenizer. The special tokens are those that surround an ordinary text."""

    def __init__(self, base: Any) -> None:
        self._base = base
        inner = base.tokenizer
        bare = self.encode(_PROBE)
        if getattr(base, "tokenizer_mode", "") == "clips":
            super().__init__([inner.bos_token_id], [inner.eos_token_id], inner.pad_token_id, last=inner.cls_token_id)
        else:
            full = list(inner(base.clean_fn(_PROBE)).input_ids)
            start = next((at for at in range(len(full)) if full[at : at + len(bare)] == bare), None)
            if start is None:
                raise IdClipError(f"placeholders are not supported with the tokenizer {inner.name_or_path!r}.")
            before, after = full[:start], full[start + len(bare) :]
            if base.strip_sep_token:
                before, after = ([0 if id == inner.sep_token_id else id for id in ids] for ids in (before, after))
            super().__init__(before, after, inner.pad_token_id or 0)
        self.filler = int(bare[-1])

    def encode(self, piece: str) -> list[int]:
        """See Splicer."""
        return list(self._base.tokenizer(self._base.clean_fn(piece), add_special_tokens=False).input_ids)
