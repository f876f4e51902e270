"""A search request: the JSON that `/knn-service` takes, checked field by field.

Role: parsed JSON -> `KnnRequest`. The stock fields of clip-retrieval keep their meaning, with defaults where the
stock service fails on a missing one; `faces`, `identities` and `include_images` are ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from open_clip_idplugin.errors import IdClipError

MOST_RESULTS = 100_000
LONGEST_TEXT = 10_000  # characters; far more than any text tower reads
MOST_FACES = 16
_MODALITIES = ("image", "text")


class BadRequest(IdClipError):
    """A request that cannot be answered; the service turns it into HTTP 400."""


@dataclass(frozen=True)
class KnnRequest:
    """One search, with everything that clip-retrieval's `KnnService.query` wants to know.

    `text` may hold `[TOK]`, `[TOK:2]` ...: these stand for the people of `faces`, then those of `identities`, in order.
    """

    text: str | None = None
    image: str | None = None  # base64
    image_url: str | None = None
    embedding_input: list[float] | None = None
    faces: tuple[str | np.ndarray, ...] = ()  # base64 photos, or embeddings [D] float32
    identities: tuple[str, ...] = ()  # enrolled names
    modality: str = "image"
    num_images: int = 40
    num_result_ids: int = 40
    indice_name: str | None = None
    use_mclip: bool = False
    deduplicate: bool = False
    use_safety_model: bool = False
    use_violence_detector: bool = False
    aesthetic_score: int | None = None
    aesthetic_weight: float | None = None
    include_images: bool = True

    @property
    def has_people(self) -> bool:
        """Whether the query names anybody."""
        return bool(self.faces or self.identities)


def parse_request(values: object) -> KnnRequest:
    """Check the JSON of a request.

    Raises:
        BadRequest: in one sentence, naming the field. Unknown fields are left alone: clients may send their own.
    """
    if not isinstance(values, dict):
        raise BadRequest('the request must be a JSON object, for example {"text": "a red bicycle"}')
    num_images = _count(values, "num_images", 40)
    request = KnnRequest(
        text=_text(values, "text", LONGEST_TEXT),
        image=_text(values, "image"),
        image_url=_text(values, "image_url"),
        embedding_input=_embedding(values),
        faces=_faces(values),
        identities=_identities(values),
        modality=_modality(values),
        num_images=num_images,
        num_result_ids=_count(values, "num_result_ids", num_images),
        indice_name=_text(values, "indice_name"),
        use_mclip=_flag(values, "use_mclip"),
        deduplicate=_flag(values, "deduplicate"),
        use_safety_model=_flag(values, "use_safety_model"),
        use_violence_detector=_flag(values, "use_violence_detector"),
        aesthetic_score=_number(values, "aesthetic_score", int),
        aesthetic_weight=_number(values, "aesthetic_weight", float),
        include_images=_flag(values, "include_images", True),
    )
    _require_a_query(request)
    return request


def _require_a_query(request: KnnRequest) -> None:
    if request.has_people and request.text is None:
        raise BadRequest(
            "'faces' and 'identities' need a 'text' that says where the person stands in it, such as '[TOK]'"
        )
    if all(query is None for query in (request.text, request.image, request.image_url, request.embedding_input)):
        raise BadRequest("the request asks for nothing: fill in one of text, image, image_url or embedding_input")


def _text(values: Mapping[str, Any], name: str, longest: int | None = None) -> str | None:
    """A string; None where it is missing, null or empty (as clients send for fields they do not use)."""
    value = values.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise BadRequest(f"'{name}' must be a string, not {_kind(value)}")
    if longest is not None and len(value) > longest:
        raise BadRequest(f"'{name}' has {len(value)} characters, at most {longest} are taken: shorten it")
    return value


def _flag(values: Mapping[str, Any], name: str, default: bool = False) -> bool:
    value = values.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise BadRequest(f"'{name}' must be true or false, not {_kind(value)}")
    return value


def _count(values: Mapping[str, Any], name: str, default: int) -> int:
    value = values.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_RESULTS:
        raise BadRequest(f"'{name}' must be a whole number from 1 to {MOST_RESULTS}")
    return value


def _number(values: Mapping[str, Any], name: str, kind: type[int] | type[float]) -> Any:
    value = values.get(name)
    if value is None or value == "":
        return None
    try:
        number = kind(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not np.isfinite(number):
        raise BadRequest(f"'{name}' must be a number, or left out")
    return number


def _modality(values: Mapping[str, Any]) -> str:
    modality = _text(values, "modality") or "image"
    if modality not in _MODALITIES:
        raise BadRequest(f"'modality' must be one of {', '.join(_MODALITIES)}")
    return modality


def _embedding(values: Mapping[str, Any]) -> list[float] | None:
    value = values.get("embedding_input")
    if value is None:
        return None
    return [float(number) for number in _vector(value, "embedding_input")]


def _faces(values: Mapping[str, Any]) -> tuple[str | np.ndarray, ...]:
    """A list of base64 photos and embeddings, or one of either."""
    value = values.get("faces")
    if value is None:
        return ()
    if isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], (int, float))):
        value = [value]
    if not isinstance(value, list) or len(value) > MOST_FACES:
        raise BadRequest(f"'faces' must be a list of at most {MOST_FACES} base64 photos or embeddings")
    return tuple(face if isinstance(face, str) else _vector(face, "faces") for face in value)


def _identities(values: Mapping[str, Any]) -> tuple[str, ...]:
    value = values.get("identities")
    if value is None:
        return ()
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or len(names) > MOST_FACES or not all(isinstance(name, str) for name in names):
        raise BadRequest(f"'identities' must be a list of at most {MOST_FACES} enrolled names")
    return tuple(names)


def _vector(value: object, name: str) -> np.ndarray:
    """[D] float32 of finite numbers that are not all zero."""
    if not isinstance(value, list) or any(isinstance(number, (bool, str)) for number in value):
        raise BadRequest(f"'{name}' must hold a list of numbers as embedding, not {_kind(value)}")
    try:
        vector = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        vector = np.zeros(0, np.float32)
    if vector.ndim != 1 or not np.isfinite(vector).all() or not vector.any():
        raise BadRequest(f"the embedding in '{name}' must be a flat list of finite numbers that are not all zero")
    return vector


def _kind(value: object) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), "null")
