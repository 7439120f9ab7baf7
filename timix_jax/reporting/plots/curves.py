"""Training curves, drawn from a run's `metrics.jsonl`."""

from __future__ import annotations

import functools
import itertools
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import matplotlib
import numpy as np
from absl import logging
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from timix_jax.errors import UserError
from timix_jax.evaluators import curve_panels
from timix_jax.reporting.plots.figures import COLOURS, INK, MUTED, STYLE, light_grid, save_png
from timix_jax.runtime.remote import as_path

LINE_STYLES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")


class Curve(NamedTuple):
    """One logged quantity: steps float64 (n,), ascending; values float64 (n,)."""

    steps: np.ndarray
    values: np.ndarray


def read_curves(path: str | os.PathLike[str]) -> dict[str, Curve]:
    """Read a JSONL file of objects with a `step` into one curve per name.

    The last value of a step counts: a resumed run writes the steps since its checkpoint again. An incomplete last
    line, left by a killed run, is skipped with a warning. Values that are not numbers are left out.

    Raises:
      UserError: the file is missing, or a line before the last is not a JSON object with a step.
    """
    file = as_path(path)
    if not file.is_file():
        raise UserError(f"No metrics at {str(path)!r}: give the metrics.jsonl of a run.")
    points: dict[str, dict[int, float]] = {}
    lines = file.read_bytes().decode("utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            step = int(entry.pop("step"))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            if number == len(lines):
                logging.warning("%s: skipped the last line, which is incomplete", path)
                continue
            raise UserError(
                f"{path}: line {number} is not a JSON object with a step ({line[:40]!r}): remove it."
            ) from error
        for name, value in entry.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                points.setdefault(name, {})[step] = float(value)
    curves = {}
    for name, values in points.items():
        steps = sorted(values)
        curves[name] = Curve(np.array(steps, np.float64), np.array([values[s] for s in steps]))
    return curves


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Average `width` neighbours (n,), fewer at the ends; only finite values count."""
    finite = np.isfinite(values)
    kernel = np.ones(width)
    total = np.convolve(np.where(finite, values, 0.0), kernel, "same")
    count = np.convolve(finite.astype(np.float64), kernel, "same")
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


Draw = Callable[[Axes, Mapping[str, Curve]], None]


class _Panel(NamedTuple):
    title: str
    names: Sequence[str]
    draw: Draw


def _noisy(axes: Axes, curves: Mapping[str, Curve], label: Callable[[str], str] = str) -> None:
    """Draw each curve; a dense one faint, under its running mean over 1/25 of the run."""
    for (name, curve), colour in zip(curves.items(), itertools.cycle(COLOURS), strict=False):
        width = len(curve.values) // 25
        if width > 1:
            axes.plot(*curve, color=colour, alpha=0.22, linewidth=0.8)
            axes.plot(
                curve.steps, running_mean(curve.values, width), color=colour, label=label(name)
            )
        else:
            axes.plot(*curve, color=colour, label=label(name))
    if len(curves) > 1:
        axes.legend(loc="best")


def _losses(axes: Axes, curves: Mapping[str, Curve]) -> None:
    _noisy(axes, curves, lambda name: name.removeprefix("loss/") if "/" in name else "total")
    axes.set_ylabel("loss (nats)")


def _quantity(unit: str, noisy: bool = False, from_zero: bool = False) -> Draw:
    def draw(axes: Axes, curves: Mapping[str, Curve]) -> None:
        if noisy:
            _noisy(axes, curves)
        else:
            for curve in curves.values():
                axes.plot(*curve, color=COLOURS[0])
        axes.set_ylabel(unit)
        if from_zero:
            axes.set_ylim(bottom=0)

    return draw


def _fractions(labels: Mapping[str, str], axes: Axes, curves: Mapping[str, Curve]) -> None:
    """Draw evaluations in percent: one colour per data set, one line style per metric."""
    sets = list(dict.fromkeys(name.rpartition("/")[0] for name in curves))
    metrics = list(dict.fromkeys(name.rpartition("/")[2] for name in curves))
    colours = dict(zip(sets, itertools.cycle(COLOURS), strict=False))
    styles = dict(zip(metrics, itertools.cycle(LINE_STYLES), strict=False))
    for name, (steps, values) in curves.items():
        data, _, metric = name.rpartition("/")
        axes.plot(
            steps,
            100 * values,
            color=colours[data],
            linestyle=styles[metric],
            marker="o",
            markersize=3,
        )
    axes.set_ylabel("%")
    entries = [Line2D([], [], color=colours[data], label=data) for data in sets if data]
    entries += [
        Line2D([], [], color=MUTED, linestyle=styles[metric], label=labels[metric])
        for metric in metrics
    ]
    # Room for the legend above the curves.
    axes.set_ylim(0, axes.get_ylim()[1] * (1.1 + 0.12 * math.ceil(len(entries) / 2)))
    axes.set_yticks([tick for tick in axes.get_yticks() if tick <= 100])
    axes.legend(handles=entries, loc="upper left", ncols=2)


def _panels(curves: Mapping[str, Curve]) -> list[_Panel]:
    """Return the panels that have something to draw, in reading order."""
    losses = [c for c in curves if c == "loss" or c.startswith("loss/")]
    panels = [
        _Panel("Training loss", losses, _losses),
        *(
            _Panel(
                title,
                [c for c in curves if c.rpartition("/")[2] in labels],
                functools.partial(_fractions, labels),
            )
            for title, labels in curve_panels().items()
        ),
        _Panel("Learning rate", ["lr"], _quantity("")),
        _Panel("Temperature", ["temperature"], _quantity("τ")),
        _Panel("Mixing weight", ["lambda"], _quantity("λ", noisy=True)),
        _Panel("Speed", ["images_per_s"], _quantity("images / s", noisy=True, from_zero=True)),
    ]
    present = [p._replace(names=[n for n in p.names if n in curves]) for p in panels]
    return [p for p in present if p.names]


def training_curves(
    jsonl_path: str | os.PathLike[str], png_path: str | os.PathLike[str], title: str
) -> None:
    """Draw losses, evaluations, learning rate, temperature and speed over the steps.

    Only what was logged gets a panel.

    Args:
      jsonl_path: a run's `metrics.jsonl`, one object per line with `step` and named numbers.
      png_path: the PNG file; its folder is created.
      title: heading.

    Raises:
      UserError: the file is missing, has an unreadable line, or holds nothing to draw.
    """
    curves = read_curves(jsonl_path)
    panels = _panels(curves)
    if not panels:
        raise UserError(
            f"{str(jsonl_path)!r} holds no metric to draw: train for a few steps first."
        )
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.2 * columns, 2.9 * rows + 0.5), layout="constrained")
        figure.suptitle(title, fontsize=14, fontweight="bold", x=0.01, ha="left", color=INK)
        for place, panel in enumerate(panels, 1):
            axes = figure.add_subplot(rows, columns, place)
            axes.set_title(panel.title)
            panel.draw(axes, {name: curves[name] for name in panel.names})
            light_grid(axes)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
            if place > len(panels) - columns:
                axes.set_xlabel("step", color=MUTED)
        save_png(figure, png_path)
