"""The verb `idclip serve`: clip-retrieval's backend with people in the query, on this machine only unless told otherwise.

Role: index folder + model + gallery + face model -> a running HTTP service.
"""

import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING

from open_clip_idplugin.errors import IdClipError
from open_clip_idplugin.retrieval.local_model import LocalModel

if TYPE_CHECKING:
    import flask


def serve(
    index: str,
    model: str,
    checkpoint: str | None = None,
    gallery: str | None = None,
    faces: str | None = None,
    det_size: int = 640,
    host: str = "127.0.0.1",
    port: int = 1234,
    device: str = "cpu",
    precision: str = "fp32",
    allow_urls: bool = False,
    allow_cors: bool = False,
    allow_remote: bool = False,
) -> None:
    """Answer searches over HTTP as clip-retrieval does, with `[TOK]`, `faces` and `identities` in requests.

    Args:
        index: folder made by `idclip index` (or by clip-retrieval, with the same image tower).
        model: model name; its image tower must be the one that made the index.
        checkpoint: weights file or pretrained tag.
        gallery: gallery file with enrolled people (default: gallery.sqlite in the user's data folder).
        faces: face model for photos in requests, e.g. insightface:buffalo_l; without it photos are refused.
        det_size: side of the square in which the face detector sees a photo; small for small pictures.
        host: address to listen on.
        port: port to listen on; 0 picks a free one.
        device: cpu, cuda or cuda:N.
        precision: fp32, amp or amp_bf16.
        allow_urls: fetch pictures from the http(s) addresses that requests name in `image_url`.
        allow_cors: let web pages of any origin read the answers.
        allow_remote: listen on an address that other machines reach; there is no login, everybody there can search.
    """
    require_local(host, allow_remote)
    from werkzeug.serving import make_server

    setup = LocalModel(model, checkpoint, gallery, faces, det_size, device, precision)
    app = open_app(index, setup, allow_urls, allow_cors)
    try:
        server = make_server(host, port, app, threaded=True)
    except (OSError, SystemExit) as error:  # werkzeug exits by itself when the port is taken
        raise IdClipError(f"the service cannot listen on {host}:{port}: choose another --port ({error})") from None
    address = f"http://{f'[{host}]' if ':' in host else host}:{server.server_port}"
    print(f"Serving {index} at {address}/knn-service (Ctrl-C stops)", flush=True)
    print(f'Next: idclip search "[TOK] ..." --identities NAME --url {address}', flush=True)
    try:
        server.serve_forever()
    finally:
        server.server_close()


def require_local(host: str, allow_remote: bool) -> None:
    """Refuse an address that other machines reach, unless it was allowed: the service has no login."""
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local and not allow_remote:
        raise IdClipError(
            f"--host {host} can be reached by other machines, and the service has no login: keep 127.0.0.1, or add "
            "--allow_remote where everybody on the network may search these images"
        )


def open_app(index: str, setup: LocalModel, allow_urls: bool = False, allow_cors: bool = False) -> "flask.Flask":
    """Load everything that the flags of `serve` name, and build the service (see `service.create_app`)."""
    folder = Path(index)
    if not folder.is_dir():
        raise IdClipError(f"--index: there is no folder '{index}'; make one with `idclip index`")
    from open_clip_idplugin.retrieval.service import create_app

    loaded, people = setup.load()
    name = folder.resolve().name
    return create_app({name: folder}, loaded, people, allow_urls=allow_urls, allow_cors=allow_cors)
