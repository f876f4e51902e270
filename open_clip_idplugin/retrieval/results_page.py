"""A page of search results: one self-contained HTML file, pictures included."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font-family: system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }}
ol {{ display: grid; gap: 1rem; list-style: none; padding: 0;
  grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); }}
li {{ border: 1px solid #8884; border-radius: .5rem; overflow: hidden; }}
img {{ aspect-ratio: 1; display: block; object-fit: contain; background: #8882; width: 100%; }}
p {{ margin: .5rem .75rem; overflow-wrap: anywhere; }}
small {{ opacity: .75; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{who}{count} results, best first; the number is the cosine similarity.</p>
<ol>
{cards}
</ol>
</body>
</html>
"""
_CARD = """<li>{picture}<p>{rank}. <b>{similarity:.4f}</b> {name}</p>
<p>{caption}</p><p><small>{key}{synthetic}</small></p></li>"""


def render_page(text: str, identities: Sequence[str], results: Sequence[Mapping[str, Any]]) -> str:
    """The page for one query; `image` of a result is base64 JPEG, as the service sends it."""
    who = f"[TOK] = {escape(', '.join(identities))}. " if identities else ""
    cards = "\n".join(_card(rank, result) for rank, result in enumerate(results, 1))
    return _PAGE.format(title=escape(text), who=who, count=len(results), cards=cards)


def _card(rank: int, result: Mapping[str, Any]) -> str:
    caption = escape(str(result.get("caption", "")))
    picture = ""
    if result.get("image"):
        picture = f'<img alt="{caption or "result"}" src="data:image/jpeg;base64,{escape(str(result["image"]))}">'
    return _CARD.format(
        picture=picture,
        rank=rank,
        similarity=result["similarity"],
        name=escape(str(result.get("identity_name", ""))),
        caption=caption,
        key=escape(str(result.get("key") or result.get("image_path") or result["id"])),
        synthetic=", synthetic image" if result.get("synthetic") is True else "",
    )
