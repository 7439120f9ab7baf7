"""Readers of published layouts, each one file and one line in `LAYOUTS`; `find_layout` recognises them by names.

May import the rest of `pretrained` that knows of files and leaves, not of runs.
"""

from collections.abc import Mapping

from timix_jax.errors import UserError
from timix_jax.pretrained.layouts import (
    bert,
    big_vision,
    huggingface_clip,
    huggingface_siglip,
    huggingface_vit,
    open_clip,
    open_clip_siglip,
    vision_transformer,
)
from timix_jax.pretrained.layouts.base import UNSTATED, Contents, Layout, Shapes, Unstated
from timix_jax.pretrained.weight_files import Shape

__all__ = ["LAYOUTS", "UNSTATED", "Contents", "Layout", "Shapes", "Unstated", "find_layout"]

LAYOUTS: tuple[Layout, ...] = (
    open_clip,
    open_clip_siglip,
    huggingface_clip,
    huggingface_siglip,
    bert,
    huggingface_vit,
    big_vision,
    vision_transformer,
)


def find_layout(shapes: Mapping[str, Shape]) -> Layout:
    """Return the layout whose names these are; a UserError lists the known ones."""
    for layout in LAYOUTS:
        if layout.recognises(shapes):
            return layout
    titles = ", ".join(layout.TITLE for layout in LAYOUTS)
    some = ", ".join(list(shapes)[:3])
    raise UserError(f"has no layout that is read ({titles}); its first arrays are {some}")
