"""Immich's machine-learning protocol: multipart `POST /predict` -> the query's vector, or the answer of the service behind.

Immich, the photo manager, asks one address for everything that needs a model. A text to search by (`clip`, `textual`) is encoded
here, with enrolled names as identity tokens or words; every other entry goes to the machine-learning service named by
`--upstream`. What is Immich's own is in docs/immich.md: forms, answers, and where it was read.
"""

from dataclasses import dataclass
from typing import Any

import flask
import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from open_clip_idplugin.checkpoints.fingerprint import fingerprint_image_tower
from open_clip_idplugin.checkpoints.loading import LoadedModel, load_model
from open_clip_idplugin.errors import Busy, IdClipError
from open_clip_idplugin.queries.person_as import encode_people, why_no_token
from open_clip_idplugin.queries.person_words import in_words
from open_clip_idplugin.queries.query_encoder import QueryEncoder
from open_clip_idplugin.retrieval.ranking.knn_request import KnnRequest, parse_request
from open_clip_idplugin.retrieval.ranking.query_parts import Persons, named_people, person_as_of
from open_clip_idplugin.retrieval.ranking.query_people import People, without_path
from open_clip_idplugin.retrieval.service.limits import Limits
from open_clip_idplugin.retrieval.service.upstream import Upstream, UpstreamError
from open_clip_idplugin.storage.finite_json import json_text
from open_clip_idplugin.tokenizer import placeholders_of, require_places

DEFAULT_MODEL = "ViT-B-32__openai"  # Immich's own default
_CLIP, _TEXTUAL = "clip", "textual"
_MOST_PARTS = 16  # of a form; Immich sends two
_MOST_ENTRIES = 64 << 10  # characters
_FORM = (
    'send a multipart form with \'entries\', as {"clip": {"textual": {"modelName": "ViT-B-32__openai"}}}, and \'text\' or '
    "'image'"
)


class _Entry(BaseModel):
    """What is asked of one model."""

    model_config = ConfigDict(extra="allow")
    modelName: str
    options: dict[str, Any] = {}


_ENTRIES = TypeAdapter(dict[str, dict[str, _Entry]])  # by task and type


@dataclass(frozen=True)
class Immich:
    """What an Immich server asks, and who answers what is not ours.

    upstream: address of the machine-learning service behind. model: Immich's name of the CLIP that embedded its pictures.
    why_not_ours: why the loaded model's texts cannot be compared with these pictures, as a clause of a sentence; None where
    they can. Where they cannot, people become words, and upstream encodes the text.
    """

    upstream: Upstream
    model: str
    why_not_ours: str | None = None


def open_immich(upstream: str | None, model: str, loaded: LoadedModel) -> Immich:
    """Check the address of the service behind, and whether `loaded` has the image tower of Immich's `model`.

    Raises:
        IdClipError: no usable address, a model that open_clip does not know, or weights of it that are not to be had.
    """
    behind = Upstream(upstream)
    name, tag = _open_clip_name(model)
    if name.lower().startswith("nllb"):
        return Immich(behind, model, f"Immich's {model} reads the user's language, which only upstream does")
    plain = load_model(name, tag, "cpu")
    if fingerprint_image_tower(plain.model) == fingerprint_image_tower(loaded.model):
        return Immich(behind, model)
    return Immich(behind, model, f"the image tower of this {loaded.name} is not that of Immich's {model}")


def people_in_texts(immich: Immich, loaded: LoadedModel, people: People) -> str:
    """One sentence for whoever starts the service: what becomes of enrolled names in Immich's texts, and why."""
    if immich.why_not_ours is not None:
        return f"enrolled names become words, and upstream encodes them, because {immich.why_not_ours}"
    why_not = why_no_token(loaded, people.face_model, people.face_size)
    return f"enrolled names become words, because {why_not}" if why_not else "enrolled names become identity tokens"


def add_immich(app: flask.Flask, immich: Immich, people: People, encoder: QueryEncoder, limits: Limits) -> None:
    """Serve `/predict` and `/ping`."""
    service = ImmichService(immich, people, encoder, limits)
    app.add_url_rule("/predict", "immich-predict", service.predict, methods=["POST"])
    app.add_url_rule("/ping", "immich-ping", lambda: flask.Response("pong", content_type="text/plain; charset=utf-8"))


class ImmichService:
    """Answers an Immich server; safe to use from several threads."""

    def __init__(self, immich: Immich, people: People, encoder: QueryEncoder, limits: Limits) -> None:
        self._immich, self._people, self._encoder, self._limits = immich, people, encoder, limits

    def predict(self) -> Any:
        """Answer the form at hand: {"clip": "[0.01, ...]"}, the numbers as a text, together with what upstream says."""
        flask.request.max_form_parts = _MOST_PARTS
        try:
            if flask.request.mimetype != "multipart/form-data":  # the other kind of form has no bound on its fields
                raise ValueError("another form")
            entries = _read_entries(flask.request.form.get("entries"))
        except ValueError:
            return {"message": _FORM}, 422
        try:
            return self._answer(entries)
        except Busy:
            raise
        except UpstreamError as error:
            return {"message": str(error)}, error.status
        except IdClipError as error:
            return {"message": str(error)}, 400

    def _answer(self, entries: dict[str, dict[str, Any]]) -> Any:
        fields = dict(flask.request.form.items())
        files = {name: file.stream for name, file in flask.request.files.items()}
        ask = self._immich.upstream.ask
        textual = entries.get(_CLIP, {}).get(_TEXTUAL)
        if textual is None:
            return _passed_on(ask(fields, files))
        if len(entries[_CLIP]) > 1 or "image" in files or not fields.get("text"):
            raise IdClipError(
                "'textual' of 'clip' takes a 'text' and no 'image': ask for 'visual' in a request of its own"
            )
        with without_path(self._people.gallery):
            request, people, persons = self._read_people(fields["text"])
        if self._immich.why_not_ours or _clean(textual["modelName"]) != _clean(self._immich.model):
            return _passed_on(ask({**fields, "text": in_words(request.text or "", persons.words)}, files))
        vector = self._encode(request, people, persons)
        answer = {_CLIP: json_text(vector.tolist())}
        others = {task: types for task, types in entries.items() if task != _CLIP}
        if not others:
            return answer
        return {**orjson.loads(ask({**fields, "entries": json_text(others)}, files)), **answer}

    def _read_people(self, written: str) -> tuple[KnnRequest, People, Persons]:
        """A search for the text, with placeholders for the enrolled names in it, and who they stand for."""
        request = self._limits.admit(parse_request({"text": written}))
        request, people, _ = self._people.of_request(request, None)
        persons, text = named_people(request, people, None), request.text or ""
        require_places(text, 0, placeholders_of(text), persons.faces)
        return request, people, persons

    def _encode(self, request: KnnRequest, people: People, persons: Persons) -> np.ndarray:
        """[E] float32, a unit vector; people are identity tokens where an adaptor takes their faces, else words."""
        person_as, _ = person_as_of(request, people, self._encoder, None, persons)
        groups = [[request.text or ""]]
        return encode_people(self._encoder, person_as, groups, [persons.faces], [persons.words])[0]


def _read_entries(written: str | None) -> dict[str, dict[str, Any]]:
    """What is asked for, by task and type; raises ValueError for what is no such JSON."""
    if len(written or "") > _MOST_ENTRIES:
        raise ValueError("far more than there are models")
    try:
        entries: dict[str, dict[str, Any]] = orjson.loads(written or "")  # bounded in depth, unlike `json`
        _ENTRIES.validate_python(entries)
    except ValidationError:
        raise ValueError("another form") from None
    if not entries:
        raise ValueError("nothing is asked for")
    return entries


def _passed_on(body: bytes) -> flask.Response:
    return flask.Response(body, content_type="application/json")


def _clean(model: str) -> str:
    """Immich's name of a model without its organisation, as Immich compares them: "org/ViT-B-32::openai" and so on."""
    return model.rpartition("/")[2].replace(":", "_").lower()


def _open_clip_name(model: str) -> tuple[str, str]:
    """Immich's name of a model -> open_clip's name and tag; raises IdClipError for one that open_clip does not know."""
    import open_clip

    name, separator, tag = _clean(model).partition("__")
    names = {known.lower(): known for known in open_clip.list_models()}
    if (
        tag == "openai" and f"{name}-quickgelu" in names
    ):  # as Immich's exporter built OpenAI's weights, whatever the name says
        name = f"{name}-quickgelu"
    if not separator or name not in names:
        raise IdClipError(
            f"--immich_model: open_clip has no '{model}': give the name in Immich's settings (Machine Learning, Smart "
            f"Search), as {DEFAULT_MODEL}"
        )
    return names[name], tag
