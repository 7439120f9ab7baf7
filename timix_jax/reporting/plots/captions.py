"""The caption sheet: images with the captions that a model writes, and a caption of the data."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from timix_jax.reporting.plots.figures import INK, MUTED, STYLE, save_png, wrap

CELL = 2.3  # inches
TEXT = 1.05  # inches below each image
COLUMNS = 5
WIDTH = 36  # characters of a line


def caption_sheet(
    path: str | os.PathLike[str],
    *,
    images: np.ndarray,
    captions: Sequence[str],
    references: Sequence[str],
    title: str,
) -> None:
    """Draw K images with their captions into a PNG file.

    Args:
      path: the PNG file; its folder is created.
      images: uint8 (K, H, H, 3).
      captions: the K captions of the model.
      references: a caption of the data for each image, or an empty text.
      title: heading.

    Raises:
      ValueError: their numbers differ.
    """
    if not len(images) == len(captions) == len(references):
        raise ValueError(
            f"{len(images)} images, {len(captions)} captions, {len(references)} references"
        )
    rows, top, pitch = -(-len(images) // COLUMNS), 0.6, CELL + 0.14
    height = top + rows * (CELL + TEXT) + 0.1
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(COLUMNS * pitch + 0.22, height))
        x, y = 1 / figure.get_figwidth(), 1 / height
        figure.text(0.18 * x, 1 - 0.3 * y, title, fontsize=14, fontweight="bold", va="center")
        for k, image in enumerate(images):
            row, column = divmod(k, COLUMNS)
            below = top + row * (CELL + TEXT) + CELL
            left = 0.18 + column * pitch
            axes = figure.add_axes((left * x, 1 - below * y, CELL * x, CELL * y))
            axes.imshow(image, interpolation="nearest" if len(image) < 128 else "antialiased")
            axes.set_axis_off()
            written = wrap(captions[k] or "(nothing)", WIDTH, 3)
            lines = written.count("\n") + 1
            place: dict[str, Any] = {"transform": axes.transAxes, "fontsize": 8, "va": "top"}
            axes.text(0, -0.03, written, color=INK, fontweight="bold", **place)
            reference = wrap(references[k], WIDTH, 3)
            axes.text(0, -0.05 - 0.055 * lines, reference, color=MUTED, **place)
        save_png(figure, path)
