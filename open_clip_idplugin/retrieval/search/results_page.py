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
.frame {{ display: flex; align-items: center; justify-content: center; aspect-ratio: 1; background: #8882; }}
.picture {{ position: relative; display: inline-block; }}
img {{ display: block; max-width: 100%; max-height: 13rem; min-width: 8rem; }}
.face {{ position: absolute; border: 2px solid #ffd23f; outline: 1px solid #000a; box-sizing: border-box; }}
p {{ margin: .5rem .75rem; overflow-wrap: anywhere; }}
small {{ opacity: .75; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{who}{count} results, best first; the number is the cosine similarity, a frame the matched face.</p>
<ol>
{cards}
</ol>
</body>
</html>
"""
_CARD = """<li>{picture}<p>{rank}. <b>{similarity:.4f}</b> {name}</p>
<p>{caption}</p><p><small>{why}</small></p><p><small>{key}{synthetic}</small></p></li>"""
_FACE = '<span class="face" title="{name}" style="left:{left:.2%};top:{top:.2%};width:{width:.2%};height:{height:.2%}"></span>'


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
        picture = f'<div class="frame"><div class="picture">{picture}{_boxes(result)}</div></div>'
    return _CARD.format(
        picture=picture,
        rank=rank,
        similarity=result["similarity"],
        name=escape(str(result.get("identity_name", ""))),
        caption=caption,
        why=escape(str(result.get("why", ""))),
        key=escape(str(result.get("key") or result.get("image_path") or result["id"])),
        synthetic=", synthetic image" if result.get("synthetic") is True else "",
    )


def _boxes(result: Mapping[str, Any]) -> str:
    """Frames around the matched faces, in shares of the picture's sides."""
    frames = []
    for match in result.get("matched") or ():
        if match.get("face_box_relative"):
            left, top, right, bottom = (float(share) for share in match["face_box_relative"])
            name = escape(str(match.get("name", "")))
            frames.append(_FACE.format(name=name, left=left, top=top, width=right - left, height=bottom - top))
    return "".join(frames)
