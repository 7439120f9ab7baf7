"""The page of hits: one HTML file without anything to fetch."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import NamedTuple

from timix_jax.search.index import Hit

_STYLE = """
body { margin: 24px; font: 15px/1.4 system-ui, sans-serif; color: #1c1e21; background: #fff }
h1 { font-size: 22px; margin: 0 0 4px } .about { color: #65676b; margin: 0 0 16px }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(220px, 1fr)); gap: 20px; margin-top: 16px }
figure { margin: 0 } figcaption { overflow-wrap: anywhere; margin-top: 6px }
.picture { position: relative; display: block; background: #f0f2f5; border-radius: 6px; overflow: hidden }
.picture img { display: block; width: 100% } .picture .heat { position: absolute; inset: 0; height: 100% }
#heat:not(:checked) ~ main .heat { display: none }
.gone { padding: 40px 12px; color: #65676b } .score { font-weight: 600 } .name, .text { color: #65676b }
@media (prefers-color-scheme: dark) {
  body { color: #e4e6eb; background: #18191a } .picture { background: #242526 }
  .about, .name, .text, .gone { color: #b0b3b8 } }
"""
# Nothing may be fetched or run, whatever a name or a caption holds.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Picture(NamedTuple):
    """What the page shows of a hit: `data:` URIs, empty for none, and why there is no image."""

    image: str
    heat: str = ""
    problem: str = ""


def render_page(
    query: str, hits: Sequence[Hit], pictures: Sequence[Picture], about: str, example: str = ""
) -> str:
    """Return the page.

    Args:
      query: the text, or the name of the image.
      hits: best first.
      pictures: one per hit.
      about: a line on what was searched.
      example: the image that was asked for, a `data:` URI.
    """
    figures = "\n".join(
        _figure(number, hit, picture)
        for number, (hit, picture) in enumerate(zip(hits, pictures, strict=True), start=1)
    )
    asked = f'<img src="{example}" alt="" width="160">' if example else ""
    switch = ""
    if any(picture.heat for picture in pictures):
        switch = '<input type="checkbox" id="heat" checked> <label for="heat">where it fits the text</label>'
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(query)}</title><style>{_STYLE}</style></head>
<body><h1><bdi>{html.escape(query)}</bdi></h1><p class="about">{html.escape(about)}</p>{asked}
{switch}
<main>
{figures}
</main></body></html>
"""


def _figure(number: int, hit: Hit, picture: Picture) -> str:
    path, name = html.escape(hit.path), html.escape(hit.path.rpartition("/")[2])
    if picture.image:
        heat = f'<img class="heat" src="{picture.heat}" alt="">' if picture.heat else ""
        shown = f'<span class="picture"><img src="{picture.image}" alt="{name}">{heat}</span>'
    else:
        shown = f'<span class="picture gone">{html.escape(picture.problem)}</span>'
    text = f'<br><bdi class="text">{html.escape(hit.caption)}</bdi>' if hit.caption else ""
    return (
        f'<figure>{shown}<figcaption>{number}. <span class="score">{hit.score:.3f}</span> '
        f'<bdi class="name" title="{path}">{name}</bdi>{text}</figcaption></figure>'
    )
