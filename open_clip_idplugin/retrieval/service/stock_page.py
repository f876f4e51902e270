"""clip-retrieval's own search page, where its wheel brought it along, below `/stock/`.

Role: Flask application -> the same with the stock page. Its files are as they were; the page asks for `config.json` beside it
to learn where the service is.
"""

from pathlib import Path
from typing import Any

import flask

PREFIX = "/stock"
# It styles itself by attributes in its templates, which the service's own rule forbids.
_STYLES = "style-src 'self' 'unsafe-inline'"


def add_stock_page(app: flask.Flask, rules: str) -> None:
    """Serve it; `rules`: the service's Content-Security-Policy."""
    import clip_retrieval

    folder = Path(clip_retrieval.__file__).parent.parent / "front" / "build"
    if not (folder / "index.html").exists():
        return
    relaxed = rules.replace("style-src 'self'", _STYLES)

    def send(name: str = "index.html") -> Any:
        answer = flask.send_from_directory(folder, name)
        answer.headers["Content-Security-Policy"] = relaxed
        return answer

    def settings() -> Any:
        return {"defaultBackend": flask.request.host_url, "defaultIndex": "", "urlColumn": "url"}

    app.add_url_rule(f"{PREFIX}/", "stock-page", send)
    app.add_url_rule(f"{PREFIX}/config.json", "stock-settings", settings)
    app.add_url_rule(f"{PREFIX}/<path:name>", "stock-file", send)
