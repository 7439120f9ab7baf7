"""The mixing sheet: what was relevant, what was cut out, what was pasted, and the result."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from timix_jax.reporting.plots.figures import INK, MUTED, STYLE, save_png, wrap

LEAST = "#00b5ff"
MOST = "#ff8a00"
HEAT = "inferno"
HEAT_ALPHA = 0.6
CELL = 2.3  # inches
HEADINGS = (
    ("Image and its caption", INK),
    ("Relevance to the caption", INK),
    ("Least relevant: cut out", "#0086c4"),
    ("Partner's most relevant", "#d06a00"),
    ("Mixed image", INK),
)


def _show(axes: Axes, image: np.ndarray) -> None:
    # Small images keep visible pixels: a smoothed 64 px emoji only looks out of focus.
    axes.imshow(image, interpolation="nearest" if image.shape[0] < 128 else "antialiased")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _outline(axes: Axes, corner: np.ndarray, window: int, patch: float, colour: str) -> None:
    """Frame the window at `corner` (row, column), with dark edges to stand out on any image."""
    row, col = (float(c) * patch - 0.5 for c in corner)
    side = window * patch
    for edge, width in (("black", 3.6), (colour, 2.2)):
        axes.add_patch(
            Rectangle(
                (col, row), side, side, fill=False, edgecolor=edge, linewidth=width, clip_on=False
            )
        )


def _heat(axes: Axes, image: np.ndarray, scores: np.ndarray, grid: int) -> None:
    """Draw the scores over the image in grey, from the lowest score of this image to its highest."""
    grey = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    _show(axes, np.repeat((0.75 * grey + 64)[..., None], 3, axis=-1).clip(0, 255).astype(np.uint8))
    height, width = image.shape[:2]
    axes.imshow(
        scores.reshape(grid, grid),
        cmap=HEAT,
        alpha=HEAT_ALPHA,
        interpolation="nearest",
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
    )


def mixing_sheet(
    path: str | os.PathLike[str],
    *,
    images: np.ndarray,
    partners: np.ndarray,
    mixed: np.ndarray,
    scores: np.ndarray,
    low: np.ndarray,
    high_partner: np.ndarray,
    window: int,
    lam: np.ndarray,
    captions: Sequence[str],
    partner_captions: Sequence[str],
    title: str,
) -> None:
    """Draw K mixed examples, one row each, into a PNG file.

    Args:
      path: the PNG file; its folder is created.
      images: uint8 (K, H, H, 3), those that are mixed into.
      partners: uint8 (K, H, H, 3).
      mixed: uint8 (K, H, H, 3).
      scores: float (K, N), relevance of each patch of `images` to its caption, row-major.
      low: int (K, 2), row and column, in patches, of the window of `images` that was overwritten.
      high_partner: int (K, 2), of the window of `partners` that was pasted.
      window: r, side of both windows in patches.
      lam: float (K,), λ, the weight of the own caption.
      captions: K captions of `images`.
      partner_captions: K captions of `partners`.
      title: heading.

    Raises:
      ValueError: the shapes do not match.
    """
    count, side = images.shape[:2]
    grid = math.isqrt(scores.shape[1])
    expected = {
        "images": (images.shape, (count, side, side, 3)),
        "partners": (partners.shape, images.shape),
        "mixed": (mixed.shape, images.shape),
        "scores": (scores.shape, (count, grid**2)),
        "low": (low.shape, (count, 2)),
        "high_partner": (high_partner.shape, (count, 2)),
        "lam": (lam.shape, (count,)),
        "captions": ((len(captions),), (count,)),
        "partner_captions": ((len(partner_captions),), (count,)),
    }
    for name, (got, want) in expected.items():
        if got != want:
            raise ValueError(f"{name} has shape {got}, expected {want}")
    patch = side / grid
    with matplotlib.rc_context(STYLE):
        # In inches: a band on top (title, headings), captions below each row, a colour key at the foot.
        row_height, top, foot = CELL + 0.62, 0.95, 0.42
        height = top + count * row_height + foot
        figure = Figure(figsize=(5 * (CELL + 0.12) + 0.24, height))
        columns = len(HEADINGS)
        inch_x, inch_y = 1 / figure.get_figwidth(), 1 / height
        figure.text(
            0.18 * inch_x, 1 - 0.34 * inch_y, title, fontsize=14, fontweight="bold", va="center"
        )
        share = window**2 / grid**2
        figure.text(
            1 - 0.18 * inch_x,
            1 - 0.34 * inch_y,
            f"window r = {window} of {grid} patches per side ({share:.0%} of the image)",
            fontsize=10,
            color=MUTED,
            ha="right",
            va="center",
        )
        for k in range(count):
            cells = [
                figure.add_axes(
                    (
                        (0.18 + c * (CELL + 0.12)) * inch_x,
                        1 - (top + k * row_height + CELL) * inch_y,
                        CELL * inch_x,
                        CELL * inch_y,
                    )
                )
                for c in range(columns)
            ]
            if k == 0:
                for axes, (heading, colour) in zip(cells, HEADINGS, strict=True):
                    axes.set_title(heading, color=colour)
            _show(cells[0], images[k])
            _heat(cells[1], images[k], scores[k], grid)
            _show(cells[2], images[k])
            _outline(cells[2], low[k], window, patch, LEAST)
            _show(cells[3], partners[k])
            _outline(cells[3], high_partner[k], window, patch, MOST)
            _show(cells[4], mixed[k])
            weights = f"λ = {lam[k]:.2f} for its own caption,\n{1 - lam[k]:.2f} for its partner's"
            notes = {0: wrap(captions[k], 38, 3), 3: wrap(partner_captions[k], 38, 3), 4: weights}
            for c, note in notes.items():
                cells[c].text(
                    0, -0.03, note, transform=cells[c].transAxes, fontsize=8, va="top", color=INK
                )
        _colour_key(figure, inch_x, inch_y)
        save_png(figure, path)


def _colour_key(figure: Figure, inch_x: float, inch_y: float) -> None:
    """Draw the colour key of the heat map under its column."""
    left = (0.18 + CELL + 0.12) * inch_x
    axes = figure.add_axes((left, 0.3 * inch_y, CELL * inch_x, 0.1 * inch_y))
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, 1), HEAT), cax=axes, orientation="horizontal", alpha=HEAT_ALPHA
    )
    bar.set_ticks([0.0, 1.0], labels=["least", "most relevant"])
    bar.outline.set_visible(False)
    axes.tick_params(length=0, labelsize=8, pad=2)
    first, last = axes.get_xticklabels()
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")
