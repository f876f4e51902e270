"""The search page: plain HTML, CSS and JavaScript files beside this module, served as they are.

Role: Flask application -> the page at `/`, its files below `/page/`. Nothing is built and nothing is fetched from elsewhere; the
files hold no data of the service, which is why they need no token.
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
