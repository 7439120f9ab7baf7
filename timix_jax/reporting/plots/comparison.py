"""Methods side by side: one dot per seed, the mean, and its spread."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from timix_jax.reporting.plots.figures import COLOURS, INK, MUTED, STYLE, light_grid, save_png


def comparison_chart(
    path: str | os.PathLike[str],
    table: Mapping[str, Mapping[str, Sequence[float]]],
    title: str,
) -> None:
    """Draw one panel per metric with one row per method.

    Args:
      path: the PNG file; its folder is created.
      table: method → metric → one fraction per seed. Every method has the same metrics.
      title: heading.

    Raises:
      ValueError: the table is empty, or a method lacks one of the first one's metrics or has another.
    """
    methods = list(table)
    metrics = list(table[methods[0]]) if methods else []
    if not metrics:
        raise ValueError("the comparison table is empty")
    for method in methods:
        lacking = [m for m in metrics if len(table[method].get(m, ())) == 0]
        if lacking or len(table[method]) != len(metrics):
            raise ValueError(f"method {method!r} has {list(table[method])}, expected {metrics}")
    height = 0.55 * len(methods) + 1.6
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.4 + 3.0 * len(metrics), height), layout="constrained")
        figure.suptitle(title, fontsize=13, fontweight="bold", x=0.01, ha="left", color=INK)
        panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        for axes, metric in zip(panels, metrics, strict=True):
            axes.set_title(metric)
            top = 0.0
            for row, method in enumerate(methods):
                values: np.ndarray = 100 * np.asarray(table[method][metric], np.float64)
                colour = COLOURS[row % len(COLOURS)]
                axes.plot([values.min(), values.max()], [row, row], color=colour, alpha=0.35, lw=5)
                axes.plot(values, np.full(len(values), row), "o", color=colour, ms=5, alpha=0.8)
                axes.plot(values.mean(), row, "|", color=INK, ms=16, mew=2)
                spread = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
                axes.annotate(
                    f"{values.mean():.1f}{spread}",
                    (values.mean(), row),
                    xytext=(0, 10),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                )
                top = max(top, values.max())
            axes.set_xlim(0, 1.15 * top if top > 0 else 1)
            axes.set_ylim(len(methods) - 0.5, -0.65)
            axes.set_yticks(range(len(methods)), methods)
            axes.tick_params(axis="y", length=0, labelsize=10, labelcolor=INK)
            axes.set_xlabel("%")
            light_grid(axes)
            axes.grid(False, axis="y")
        figure.supxlabel(
            "one dot per seed · bar and number: mean ± standard deviation",
            fontsize=8,
            color=MUTED,
            x=0.99,
            ha="right",
        )
        save_png(figure, path)
