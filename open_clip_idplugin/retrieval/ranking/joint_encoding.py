"""Dynamic batching: texts of requests that arrive while others are encoded go through the text tower together.

Role: `encode` called by many threads -> as few forward passes as they need. Nobody waits for company: whoever comes first is
encoded at once, alone; those who come meanwhile are encoded in the next pass, together. Vectors are those of single
requests up to the rounding of floats, and an error stays with the request that made it.
"""

import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from open_clip_idplugin.checkpoints.loading import LoadedModel
from open_clip_idplugin.queries.query_encoder import QueryEncoder
from open_clip_idplugin.tokenizer import faces_per_text

MOST_TEXTS = 64  # of several requests in one pass; the padding to the longest of them costs more than a pass saves


class JointEncoder(QueryEncoder):
    """A `QueryEncoder` for many threads; as each waits for its own texts, no more requests wait than there are threads."""

    def __init__(self, loaded: LoadedModel, most_texts: int = MOST_TEXTS) -> None:
        """`most_texts`: of several requests in one pass; a single request may bring more."""
        super().__init__(loaded)
        self._most_texts = most_texts
        self._lock = threading.Lock()
        self._waiting: deque[_Turn] = deque()
        self._at_work = False

    def _features(self, texts: Sequence[str], faces: Any) -> np.ndarray:
        turn = _Turn(texts, faces)
        with self._lock:
            self._waiting.append(turn)
            turn.leads, self._at_work = not self._at_work, True
        if not turn.leads:
            turn.called.wait()
        if turn.leads:
            self._encode_waiting()
        if turn.error is not None:
            raise turn.error
        assert turn.features is not None
        return turn.features

    def _encode_waiting(self) -> None:
        """One pass for those who wait, this thread's texts first; then the next who waits leads the pass after it."""
        together = self._take()
        try:
            self._encode(together)
        finally:
            with self._lock:
                following = self._waiting[0] if self._waiting else None
                self._at_work = following is not None
            if following is not None:
                following.leads = True
                following.called.set()
            for turn in together:
                turn.called.set()

    def _take(self) -> "list[_Turn]":
        with self._lock:
            together = [self._waiting.popleft()]
            count = len(together[0].texts)
            while self._waiting and count + len(self._waiting[0].texts) <= self._most_texts:
                together.append(self._waiting.popleft())
                count += len(together[-1].texts)
        return together

    def _encode(self, together: "list[_Turn]") -> None:
        try:
            if len(together) == 1:
                together[0].features = super()._features(together[0].texts, together[0].faces)
                return
            texts = [text for turn in together for text in turn.texts]
            faces = [face for turn in together for face in self._face_of_each(turn)]
            features = super()._features(texts, faces if any(face is not None for face in faces) else None)
        except Exception as error:
            if len(together) == 1:
                together[0].error = error
                return
            for turn in together:  # whose fault it is shows when each is encoded by itself
                self._encode([turn])
            return
        ends = np.cumsum([len(turn.texts) for turn in together])[:-1]
        for turn, rows in zip(together, np.split(features, ends), strict=True):
            turn.features = rows

    def _face_of_each(self, turn: "_Turn") -> Sequence[np.ndarray | None]:
        if turn.faces is None:
            return [None] * len(turn.texts)
        return faces_per_text(turn.faces, len(turn.texts), self._face_dim)


class _Turn:
    """The texts of one thread, and what became of them."""

    def __init__(self, texts: Sequence[str], faces: Any) -> None:
        self.texts, self.faces = texts, faces
        self.called = threading.Event()  # encoded, or to lead the next pass
        self.leads = False
        self.features: np.ndarray | None = None
        self.error: Exception | None = None
