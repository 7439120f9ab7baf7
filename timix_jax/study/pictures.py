"""The curves of a study: quality against data, and against the steps, FLOPs and seconds of the runs."""

import functools
import os
from collections.abc import Callable

from timix_jax.reporting.plots.quality_curves import CurvePoint, quality_curves
from timix_jax.study.statistics import summary
from timix_jax.study.table import Point, Table


def draw_study(table: Table, path: str | os.PathLike[str], title: str) -> None:
    """Draw the metric of all points; amounts of data only where the study names them."""
    amounts, panels = table.study.amounts, {}
    if amounts:
        panels["examples"] = _curves(
            table, lambda point: amounts.get(point.data), lambda point: point.budget
        )
    costs = {"seconds": "seconds of a run", "flops": "FLOPs of a run"}
    if len(table.study.budgets) > 1:
        costs["steps"] = "steps"
    for field, label in costs.items():
        panels[label] = _curves(
            table, functools.partial(table.mean_of, field=field), lambda point: point.data
        )
    heading = f"{title}: mean of {', '.join(table.study.metric)}"
    quality_curves(path, panels, heading, "quality")


def _curves(
    table: Table,
    amount_of: Callable[[Point], float | None],
    series_of: Callable[[Point], str],
) -> dict[str, list[CurvePoint]]:
    """Return series → its points."""
    curves: dict[str, list[CurvePoint]] = {}
    several = len({series_of(point) for point in table.points()}) > 1
    for point in table.points():
        amount = amount_of(point)
        if amount is None:
            continue
        values = table.values(point, table.study.metric, table.seeds(point)).mean(axis=1)
        mean, error, _ = summary(values.tolist())
        name = f"{point.method} ({series_of(point)})" if several else point.method
        curves.setdefault(name, []).append(CurvePoint(amount, mean, error))
    return curves
