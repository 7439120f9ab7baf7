"""The style that all plots share, and how they are written."""

from __future__ import annotations

import io
import os
import textwrap
import warnings
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from timix_jax.runtime.atomic_write import atomic_write_bytes
from timix_jax.runtime.remote import as_path

INK = "#222222"
MUTED = "#6b6b6b"
GRID = "#e3e3e3"
# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")

# Any: Matplotlib types the keys as literals from 3.11 on and as str before.
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # a caption with two dollar signs is not a formula
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.framealpha": 0.75,
    "legend.edgecolor": "none",
    "legend.fontsize": 8,
    "figure.facecolor": "white",
}


def save_png(figure: Figure, path: str | os.PathLike[str], dpi: int = 120) -> None:
    """Write a PNG, local or remote, atomically: no reader ever sees half a picture."""
    drawn = io.BytesIO()
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # A character missing from the font is drawn as a box; that is warning enough.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(drawn, format="png", dpi=dpi)
    target = as_path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(target, drawn.getvalue())


def wrap(text: str, width: int, lines: int) -> str:
    """Break `text` into at most `lines` lines of `width` characters, and cut off the rest."""
    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder=" …"))


def light_grid(axes: Axes) -> None:
    """Draw faint lines behind the data."""
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
