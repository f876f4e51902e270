"""Search pages: a Flask application -> the same with our page at `/`, and clip-retrieval's own below `/stock/`.

Ours is plain HTML, CSS and JavaScript beside this module, served as it is below `/page/`: nothing is built and nothing is fetched
from elsewhere; the files hold no data of the service, which is why they need no token. The stock page is served where
clip-retrieval's wheel brought it along, with its files as they were; it asks for `config.json` beside it to learn where the
service is.
"""

import hashlib
from pathlib import Path
from typing import Any

import flask

_FOLDER = Path(__file__).parent
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
START = "index.html"
STOCK_PREFIX = "/stock"
# It styles itself by attributes in its templates, which the service's own rule forbids.
_STOCK_STYLES = "style-src 'self' 'unsafe-inline'"


def add_page(app: flask.Flask) -> None:
    """Serve the page; its files are read once."""
    files = {path.name: path.read_bytes() for path in sorted(_FOLDER.iterdir()) if path.suffix in _TYPES}

    def send(name: str) -> Any:
        if name not in files:
            flask.abort(404)
        answer = flask.Response(files[name], content_type=_TYPES[Path(name).suffix])
        answer.headers["Cache-Control"] = (
            "no-cache"  # asked again each time, and answered with 304 where it is the same
        )
        answer.set_etag(hashlib.sha256(files[name]).hexdigest()[:32])
        return answer.make_conditional(flask.request)

    app.add_url_rule("/", "page", lambda: send(START))
    app.add_url_rule("/page/<name>", "page-file", send)


def add_stock_page(app: flask.Flask, rules: str) -> None:
    """Serve the stock page; `rules`: the service's Content-Security-Policy."""
    import clip_retrieval

    folder = Path(clip_retrieval.__file__).parent.parent / "front" / "build"
    if not (folder / "index.html").exists():
        return
    relaxed = rules.replace("style-src 'self'", _STOCK_STYLES)

    def send(name: str = "index.html") -> Any:
        answer = flask.send_from_directory(folder, name)
        answer.headers["Content-Security-Policy"] = relaxed
        return answer

    def settings() -> Any:
        return {"defaultBackend": flask.request.host_url, "defaultIndex": "", "urlColumn": "url"}

    app.add_url_rule(f"{STOCK_PREFIX}/", "stock-page", send)
    app.add_url_rule(f"{STOCK_PREFIX}/config.json", "stock-settings", settings)
    app.add_url_rule(f"{STOCK_PREFIX}/<path:name>", "stock-file", send)
