"""The verb `idclip serve`: clip-retrieval's backend with people in the query, on this machine only unless told otherwise.

Role: index folders + model + gallery + face model -> a running HTTP service.
"""

import csv
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from open_clip_idplugin.command_line.devices import AUTO
from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.retrieval.ranking.local_model import LocalModel
from open_clip_idplugin.retrieval.service.heap import limit_heaps, without_collections

if TYPE_CHECKING:
    import flask

    from open_clip_idplugin.retrieval.service.access import Access
    from open_clip_idplugin.retrieval.service.limits import Limits


def serve(
    index: str | None = None,
    model: str | None = None,
    checkpoint: str | None = None,
    gallery: str | None = None,
    faces: str | None = None,
    det_size: int | None = None,
    host: str = "127.0.0.1",
    port: int = 1234,
    threads: int = 8,
    device: str = AUTO,
    precision: str = "fp32",
    mmap: bool = False,
    token_file: str | None = None,
    host_names: str | None = None,
    trusted_proxies: str | None = None,
    allow_urls: bool = False,
    allow_cors: bool = False,
    read_only_people: bool = False,
    max_request_mb: int = 32,
    max_pixels: int = 50_000_000,
    max_results: int = 10_000,
    max_text: int = 10_000,
    model_config: str | None = None,
    immich_compatible: bool = False,
    upstream: str | None = None,
    immich_model: str = "ViT-B-32__openai",
) -> None:
    """Answer searches over HTTP as clip-retrieval does, with `[TOK]`, `faces` and `identities` in requests.

    Args:
        index: folder made by `idclip index` (or by clip-retrieval, with the same image tower); several as
            NAME=FOLDER,NAME=FOLDER, of which the first answers requests that name none. Left out only with
            --immich_compatible, for Immich alone.
        model: name of any open_clip model; its image tower must be the one that made the index.
        checkpoint: weights file, pretrained tag, or hf-hub:OWNER/NAME for a delta of a model hub.
        gallery: gallery file with enrolled people (default: gallery.sqlite in the user's data folder).
        faces: face model for photos in requests, e.g. insightface:buffalo_l; without it photos are refused.
        det_size: side of the square in which the face detector sees a photo; None takes the face engine's own.
        host: address to listen on; any but this machine's own needs a token.
        port: port to listen on; 0 picks a free one.
        threads: requests that are answered at once.
        device: auto (CUDA where torch has one, else the CPU), cpu, cuda or cuda:N.
        precision: fp32, amp or amp_bf16.
        mmap: leave vectors and weights on the disk and read what a search needs.
        token_file: file (0600) with the token that requests must send; or the environment variable IDCLIP_TOKEN.
        host_names: names by which the service is called, separated by commas, e.g. behind a proxy.
        trusted_proxies: addresses or networks of proxies in front, separated by commas: what their X-Forwarded-For and
            X-Forwarded-Proto say of a client is believed.
        allow_urls: fetch pictures from the public http(s) addresses that requests name in `image_url`.
        allow_cors: let web pages of any origin read the answers.
        read_only_people: let nobody be enrolled, renamed or forgotten through the service and its page.
        max_request_mb: largest request in MB.
        max_pixels: largest picture in a request, in pixels.
        max_results: most results of a request.
        max_text: longest text in characters.
        model_config: JSON file, or folder of them, that describes models of your own (see docs/own_models.md).
        immich_compatible: answer an Immich server too, as its machine-learning service (see docs/immich.md).
        upstream: address of Immich's own machine-learning service, which gets everything but texts to search by.
        immich_model: Immich's name of the CLIP model that embedded its pictures, as its settings have it.
    """
    from open_clip_idplugin.retrieval.service.access import parse_networks, read_token

    access = choose_access(host, read_token(token_file), host_names, allow_cors, read_only_people)
    access = replace(access, trusted_proxies=parse_networks(trusted_proxies))
    if index is None and not immich_compatible:
        raise IdClipError("--index: name a folder made with `idclip index` (only --immich_compatible does without)")
    if model is None:
        raise IdClipError("--model: name the open_clip model whose image tower made the index")
    folders = {} if index is None else split_indices(index)
    if threads < 1:
        raise IdClipError("--threads must be at least 1")
    limit_heaps()
    from open_clip_idplugin.retrieval.service.limits import Limits
    from open_clip_idplugin.retrieval.service.web_server import WebServer

    limits = Limits(max_request_mb << 20, max_pixels, max_results, max_text)
    server = WebServer(host, port, threads, limits.request_bytes, bool(access.trusted_proxies))
    server.start()
    setup = LocalModel(model, checkpoint, gallery, faces, det_size, device, precision, model_config)
    with without_collections():
        share_cores(threads)
        immich = (upstream, immich_model) if immich_compatible else None
        app = open_app(folders, setup, allow_urls, access, limits, mmap, immich)
    server.gate.open(app)
    address = f"http://{f'[{host}]' if ':' in host else host}:{server.port}"
    if immich is not None:
        print(f"Next: make {address} the only URL in Immich's settings, Machine Learning (docs/immich.md)", flush=True)
    if not folders:
        server.run_until_stopped()
        return
    print(f"Serving {', '.join(folders)} at {address}/knn-service (Ctrl-C stops)", flush=True)
    print(
        f'Next: open {address} in a browser, or idclip search "[TOK] ..." --identities NAME --url {address}', flush=True
    )
    server.run_until_stopped()


def choose_access(
    host: str, token: str | None, host_names: str | None, allow_cors: bool, read_only_people: bool = False
) -> "Access":
    """Refuse an address that other machines reach without a token; check the names of a service of this machine alone."""
    from open_clip_idplugin.retrieval.service.access import Access, is_local

    named = frozenset(name.strip().lower() for name in (host_names or "").split(",") if name.strip())
    if is_local(host):
        return Access(token, frozenset((*_LOCAL_NAMES, host.lower(), *named)), allow_cors, read_only_people)
    if token is None:
        raise IdClipError(
            f"--host {host} can be reached by other machines: give a token with --token_file FILE (or the environment "
            "variable IDCLIP_TOKEN), or keep 127.0.0.1"
        )
    return Access(token, named or None, allow_cors, read_only_people)


_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


def split_indices(listed: str) -> dict[str, Path]:
    """NAME=FOLDER,... or one FOLDER, whose own name is taken -> name -> folder.

    Raises:
        IdClipError: a folder is not there, or a name comes twice.
    """
    indices: dict[str, Path] = {}
    for entry in next(csv.reader([listed], skipinitialspace=True), []):
        name, equals, folder = entry.partition("=")
        path = Path(folder if equals and not Path(entry).is_dir() else entry)
        if not path.is_dir():
            raise IdClipError(f"--index: there is no folder '{path}'; make one with `idclip index`")
        name = name if path != Path(entry) else path.resolve().name
        if not name or name in indices:
            raise IdClipError(f"--index: give every index a name of its own, as NAME=FOLDER ('{name}' comes twice)")
        indices[name] = path
    if not indices:
        raise IdClipError("--index: name a folder made with `idclip index`")
    return indices


def share_cores(threads: int) -> None:
    """Let searches that run at once share the cores, instead of each waking a thread on every one of them.

    The towers get all cores: one pass at a time goes through them (see `joint_encoding` and `towers`).
    """
    import faiss
    import torch

    from open_clip_idplugin.retrieval.service.heap import count_cores

    cores = count_cores()
    torch.set_num_threads(cores)
    faiss.omp_set_num_threads(max(1, cores // min(threads, cores)))


def open_app(
    indices: dict[str, Path] | str,
    setup: LocalModel,
    allow_urls: bool = False,
    access: "Access | None" = None,
    limits: "Limits | None" = None,
    mmap: bool = False,
    immich: tuple[str | None, str] | None = None,
) -> "flask.Flask":
    """Load everything that the flags of `serve` name, and build the service (see `service.create_app`).

    immich: address of the machine-learning service behind, and Immich's name of its CLIP model.
    """
    folders = split_indices(indices) if isinstance(indices, str) else indices
    from open_clip_idplugin.retrieval.service.app import create_app
    from open_clip_idplugin.retrieval.service.immich import open_immich, people_in_texts

    loaded, people = setup.load()
    answered = None if immich is None else open_immich(*immich, loaded)
    if answered is not None:
        told = people_in_texts(answered, loaded, people)
        print(f"Immich's texts for {answered.model}: {told}", flush=True)
    return create_app(
        folders, loaded, people, allow_urls=allow_urls, access=access, limits=limits, mmap=mmap, immich=answered
    )
