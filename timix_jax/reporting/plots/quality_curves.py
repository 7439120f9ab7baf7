"""Quality against an amount (data, steps, FLOPs, seconds), one line per method."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, NullLocator

from timix_jax.reporting.plots.figures import COLOURS, INK, STYLE, light_grid, save_png


class CurvePoint(NamedTuple):
    """One point of a curve: the amount, the mean quality in [0, 1] and its standard error (NaN for none)."""

    amount: float
    mean: float
    error: float


def quality_curves(
    path: str | os.PathLike[str],
    panels: Mapping[str, Mapping[str, Sequence[CurvePoint]]],
    title: str,
    quality: str,
) -> None:
    """Draw one panel per kind of amount.

    Args:
      path: the PNG file; its folder is created.
      panels: label of the amount → method → its points in any order; a single point is drawn as a dot.
      title: heading.
      quality: label of the quality.

    Raises:
      ValueError: there is nothing to draw.
    """
    if not any(points for curves in panels.values() for points in curves.values()):
        raise ValueError("there are no points to draw")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.0 + 4.6 * len(panels), 4.2), layout="constrained")
        figure.suptitle(title, fontsize=13, fontweight="bold", x=0.01, ha="left", color=INK)
        for axes, (label, curves) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
        ):
            for number, (method, points) in enumerate(curves.items()):
                ordered = sorted(points)
                axes.errorbar(
                    [p.amount for p in ordered],
                    [100 * p.mean for p in ordered],
                    yerr=[0.0 if p.error != p.error else 100 * p.error for p in ordered],
                    color=COLOURS[number % len(COLOURS)],
                    marker="o",
                    markersize=4,
                    capsize=3,
                    label=method,
                )
            _scale(axes, [p.amount for points in curves.values() for p in points])
            axes.set_xlabel(label)
            axes.set_ylabel(f"{quality} (%)")
            axes.legend()
            light_grid(axes)
        save_png(figure, path)


def _scale(axes: Axes, amounts: Sequence[float]) -> None:
    """Show amounts that span a factor of 4 or more on a logarithmic axis, others on a linear one."""
    if max(amounts) >= 4 * min(amounts):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(sorted(set(amounts))))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
