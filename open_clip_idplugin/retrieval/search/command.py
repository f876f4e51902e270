"""The verb `idclip search`: a question about a person and a context -> a table of images, and a page if wanted.

Role: text + people -> results, by one of three ways: an index folder opened in this process, a running `idclip
serve`, or any clip-retrieval backend, which is sent the finished query vector (client-only mode).
"""

import base64
import contextlib
import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from open_clip_idplugin.command_line.devices import AUTO
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.retrieval.ranking.local_model import LocalModel
from open_clip_idplugin.retrieval.ranking.request_fields import HINTS
from open_clip_idplugin.retrieval.search.results_page import render_page
from open_clip_idplugin.retrieval.search.search_options import request_fields, with_request_flags
from open_clip_idplugin.storage.atomic import PRIVATE, atomic_write
from open_clip_idplugin.storage.finite_json import finite, json_text

_TIMEOUT = 60  # seconds

Results = list[dict[str, Any]]


class SearchFailed(IdClipError):
    """A search that gave no answer: refused, or the backend cannot be reached."""


@dataclass(frozen=True)
class Query:
    """A text, where `[TOK]`, `[TOK:2]` ... stand for the people of `photos`, then of `identities`."""

    text: str
    photos: tuple[str, ...] = ()
    identities: tuple[str, ...] = ()
    num_images: int = 20
    options: Mapping[str, Any] = field(default_factory=dict)  # further fields of the request

    def faces(self) -> list[bytes]:
        """The files of the photos."""
        return [_read(photo) for photo in self.photos]

    def to_json(self, include_images: bool) -> dict[str, Any]:
        """The request for our service; photos are sent as base64."""
        return {
            "text": self.text,
            "faces": [base64.b64encode(photo).decode() for photo in self.faces()],
            "identities": list(self.identities),
            "num_images": self.num_images,
            "include_images": include_images,
            **self.options,
        }


@with_request_flags
def search(
    text: str,
    index: str | None = None,
    url: str | None = None,
    model: str | None = None,
    checkpoint: str | None = None,
    identities: str | None = None,
    photos: str | None = None,
    gallery: str | None = None,
    faces: str | None = None,
    det_size: int | None = None,
    num_images: int = 20,
    output: str | None = None,
    client_only: bool = False,
    device: str = AUTO,
    precision: str = "fp32",
    where: str | None = None,
    model_config: str | None = None,
    given: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Find a person in a context: "[TOK] feeding a horse" with an enrolled name or a photo; plain text works as well.

    Args:
        text: what the images show; [TOK] stands for the person, [TOK:2] for a second one.
        index: index folder to open here (with --model); or give --url.
        url: address of a running service, e.g. http://127.0.0.1:1234.
        model: name of any open_clip model; not needed for the --url of an idclip service, which has its own.
        checkpoint: weights file, pretrained tag, or hf-hub:OWNER/NAME for a delta of a model hub.
        identities: enrolled names, several separated by commas (a name with a comma in double quotes).
        photos: picture files of people, several separated by commas; they come before the identities.
        gallery: gallery file (default: gallery.sqlite in the user's data folder).
        faces: face model that reads the photos here, e.g. insightface:buffalo_l.
        det_size: side of the square in which the face detector sees a photo; None takes the face engine's own.
        num_images: number of results.
        output: HTML page to write, with pictures.
        client_only: encode the query here and send only its vector to --url, which may be any clip-retrieval backend
            whose index was made with the same image tower; no face or name leaves this machine.
        device: auto (CUDA where torch has one, else the CPU), cpu, cuda or cuda:N.
        precision: fp32, amp or amp_bf16.
        where: conditions on metadata, several separated by commas: column=value, column=a|b, column=1900..1950 (numbers or
            dates), column==value for a text with such signs in it.
        model_config: JSON file, or folder of them, that describes models of your own (see docs/own_models.md).
    """
    clause = {name: list(_split(given[name])) for name in ("all", "any", "none") if given.get(name)}
    options = request_fields({**given, **clause}, _split(where))
    query = Query(text, _split(photos), _split(identities), num_images, options)
    if client_only and options:
        raise IdClipError(
            "--client_only sends one vector: people in images, thresholds and filters need an idclip service"
        )
    if (index is None) == (url is None):
        raise IdClipError("give either --index DIR (with --model) or --url http://HOST:PORT")
    if url is not None and not client_only:
        results = search_service(url, query, include_images=output is not None)
    elif model is None:
        raise IdClipError("--model (and --checkpoint) is needed to encode the query on this machine")
    else:
        setup = LocalModel(model, checkpoint, gallery, faces, det_size, device, precision, model_config)
        if url is not None:
            results = search_any_backend(url, query, setup)
        else:
            results = search_folder(str(index), query, setup, include_images=output is not None)
    print_results(results)
    if output is not None:
        atomic_write(output, render_page(query.text, query.identities, results), PRIVATE)
        print(f"Wrote {output}\nNext: open it in a browser")


def search_service(url: str, query: Query, include_images: bool = False) -> Results:
    """Ask a running `idclip serve`; the service embeds photos and knows the enrolled names.

    Its token, where it wants one, is read from the environment variable IDCLIP_TOKEN.
    """
    import requests

    address = f"{url.rstrip('/')}/knn-service"
    token = os.environ.get("IDCLIP_TOKEN", "").strip()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    body = query.to_json(include_images)
    answered: list[requests.Response] = []

    def ask() -> requests.Response:
        answered.append(requests.post(address, json=body, headers=headers, timeout=_TIMEOUT))
        return answered[0]

    results: Results = _answer_of(ask, address)
    print_hints(json.loads(answered[0].headers.get(HINTS, "[]")))
    return results


def search_any_backend(url: str, query: Query, setup: LocalModel) -> Results:
    """Client-only mode: encode text and people here, and send the vector to any clip-retrieval backend."""
    import requests
    from clip_retrieval.clip_client import ClipClient

    base = url.rstrip("/")
    indices = _answer_of(lambda: requests.get(f"{base}/indices-list", timeout=_TIMEOUT), base)
    if not indices:
        raise SearchFailed(f"{base}/indices-list names no index: is this a clip-retrieval backend?")
    client = ClipClient(
        f"{base}/knn-service",
        indices[0],
        num_images=query.num_images,
        deduplicate=False,  # the same scene with another face is a near-duplicate
        use_safety_model=False,
        use_violence_detector=False,
    )
    embedding = encode_query(query, setup)
    return _answer_of(lambda: client.query(embedding_input=embedding), base)


def search_folder(index: str, query: Query, setup: LocalModel, include_images: bool = False) -> Results:
    """Open an index folder in this process and ask it; a request that cannot be answered is refused before that.

    Needs the extra `search` alone, and no clip-retrieval.
    """
    from open_clip_idplugin.retrieval.ranking.answering import LocalSearch
    from open_clip_idplugin.retrieval.ranking.knn_request import parse_request
    from open_clip_idplugin.retrieval.ranking.opened_index import IndexOpener
    from open_clip_idplugin.retrieval.serve import split_indices
    from open_clip_idplugin.retrieval.service.limits import Limits

    folders = split_indices(index)
    with _refusals():
        request = Limits().admit(parse_request(query.to_json(include_images)))
    loaded, people = setup.load()
    open_index = IndexOpener(loaded)
    local = LocalSearch({name: open_index(folder) for name, folder in folders.items()}, people)
    with _refusals():
        results, hints = local.search(request)
    print_hints([asdict(hint) for hint in hints])
    return finite(results)


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """What a service would answer with HTTP 400 is the end of a search."""
    try:
        yield
    except IdClipError as error:
        raise SearchFailed(f"the search was refused: {error}") from None


def encode_query(query: Query, setup: LocalModel) -> list[float]:
    """The query as a unit vector of D floats, for the `embedding_input` of any clip-retrieval backend."""
    from open_clip_idplugin.queries.person_as import encode_people, why_no_token
    from open_clip_idplugin.queries.person_words import TOKEN
    from open_clip_idplugin.queries.query_encoder import QueryEncoder

    loaded, everybody = setup.load()
    people = everybody.asked_for(query.identities)
    rows = people.embeddings(query.faces(), query.identities)
    why_not = why_no_token(loaded, people.face_model, rows.shape[1] or None)
    if len(rows) and why_not is not None:
        raise IdClipError(
            f"--client_only sends one vector, in which only an identity token can stand for a person, but {why_not}: ask an "
            "idclip service, which compares the faces too"
        )
    encoded = encode_people(QueryEncoder(loaded), TOKEN, [[query.text]], [rows], [()])
    return [float(number) for number in encoded[0]]


def print_results(results: Results) -> None:
    """One line a result: rank, similarity, key, caption; below it why, where the service says so."""
    if not results:
        print("Nothing was found.")
        return
    width = max(len(_key(result)) for result in results)
    for rank, result in enumerate(results, 1):
        who = f" [{result['identity_name']}]" if result.get("identity_name") else ""
        print(f"{rank:>3}  {result['similarity']:.4f}  {_key(result):<{width}}{who}  {result.get('caption', '')[:90]}")
        if result.get("why"):
            chance = result.get("probability")
            print(f"     {result['why']}" + ("" if chance is None else f"; there with a probability of {chance:.2g}"))


def print_hints(hints: Sequence[Mapping[str, Any]]) -> None:
    """Say which words of the text may have been meant as names (see `answers.with_hints`)."""
    for hint in hints:
        people = " or ".join(f"'{name}'" for name in hint["people"])
        print(f"'{hint['written']}' was read as a word; for {people} write the whole name, or --identities NAME")


def _answer_of(ask: Callable[[], Any], url: str) -> Any:
    """JSON of an answer; raises SearchFailed with the backend's sentence, or with why there is none."""
    import requests

    try:
        answer = ask()
        values = answer.json() if isinstance(answer, requests.Response) else answer
    except requests.JSONDecodeError:
        raise SearchFailed(f"{url} did not answer in JSON: is this a clip-retrieval backend?") from None
    except requests.RequestException as error:
        raise SearchFailed(f"{url} cannot be reached ({type(error).__name__}): is the service running?") from None
    return _results(values, url)


def _results(values: Any, source: str) -> Any:
    if isinstance(values, dict) and "message" in values:
        raise SearchFailed(f"the search was refused: {values['message']}")
    if not isinstance(values, list):
        raise SearchFailed(f"{source} gave an answer of an unknown form: {json_text(values)[:200]}")
    return values


def _split(listed: str | None) -> tuple[str, ...]:
    """A comma-separated list; an entry with a comma in it stands in double quotes."""
    entries = next(csv.reader([listed or ""], skipinitialspace=True), [])
    return tuple(entry.strip() for entry in entries if entry.strip())


def _read(photo: str) -> bytes:
    path = Path(photo)
    if not path.is_file():
        raise IdClipError(f"--photos: there is no file '{photo}'")
    return path.read_bytes()


def _key(result: dict[str, Any]) -> str:
    return str(result.get("key") or result.get("image_path") or result.get("url") or result["id"])
