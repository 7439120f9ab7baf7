"""The report of a study: Markdown with tables, and the numbers behind them as JSON."""

import json
import math
from collections.abc import Sequence
from typing import Any

from timix_jax.study.plan import Comparison, Study
from timix_jax.study.statistics import (
    Difference,
    Multiplier,
    data_multiplier,
    holm,
    paired_difference,
    summary,
)
from timix_jax.study.table import Point, Table

_MIXED = ("mixed_images", "mixed_patches", "mixed_captions")


def report(table: Table, *, title: str, command: str, code: dict[str, Any]) -> tuple[str, str]:
    """Return the report as Markdown, and its numbers as JSON text.

    Args:
      table: the finished runs.
      title: heading.
      command: the command that made the study.
      code: from `code_version`.
    """
    study = table.study
    wanted, ended = len(study.cells()), len(table.records)
    lines = [f"# {title}", ""]
    if ended < wanted:
        lines += [f"**Incomplete: {ended} of {wanted} runs have ended.**", ""]
    lines += [
        f"Made by `{command}` at commit {code['commit'] or 'unknown'} (sources {code['digest']}; "
        + ", ".join(f"{name} {version}" for name, version in code["packages"].items())
        + ").",
        "",
        f"Metric: the mean of {_code(study.metric)}, in per cent; ± is one standard error over seeds. Mixed: shares of"
        " the images, patches and captions shown in training that are mixed.",
        "",
    ]
    lines += _quality_table(table, study.metric)
    for name, metric in study.tables.items():
        lines += [f"## {name}", "", f"The mean of {_code(metric)}.", "", *_plain(table, metric)]
    lines += _gap_table(table, metric=study.metric)
    differences = _differences(table)
    lines += _difference_table(differences)
    multipliers = _multipliers(table)
    lines += _multiplier_table(study, multipliers)
    numbers = {
        "code": code,
        "command": command,
        "points": [_numbers(table, point) for point in table.points()],
        "differences": [
            {**pair._asdict(), "data": data, "budget": budget, **gap._asdict(), "p_holm": p}
            for (pair, data, budget), gap, p in differences
        ],
        "multipliers": [
            {**point._asdict(), **multiplier._asdict()} for point, multiplier in multipliers
        ],
    }
    return "\n".join(lines).rstrip() + "\n", json.dumps(numbers, indent=1) + "\n"


def _quality_table(table: Table, metric: Sequence[str]) -> list[str]:
    lines = [
        "| data | budget | method | quality | seeds | seconds | TFLOP | mixed images / patches / captions |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for point in table.points():
        seeds = table.seeds(point)
        quality = summary(table.values(point, metric, seeds).mean(axis=1).tolist())
        shares = " / ".join(_percent(table.mixed(point, name)) for name in _MIXED)
        lines.append(
            f"| {point.data} | {point.budget} | {point.method} | {_with_error(quality.mean, quality.error)} | "
            f"{quality.seeds} | {table.mean_of(point, 'seconds'):.0f} | "
            f"{table.mean_of(point, 'flops') / 1e12:.1f} | {shares} |"
        )
    return [*lines, ""]


def _plain(table: Table, metric: Sequence[str]) -> list[str]:
    lines = ["| data | budget | method | value |", "|---|---|---|---|"]
    for point in table.points():
        value = summary(table.values(point, metric, table.seeds(point)).mean(axis=1).tolist())
        shown = _with_error(value.mean, value.error)
        lines.append(f"| {point.data} | {point.budget} | {point.method} | {shown} |")
    return [*lines, ""]


def _gap_table(table: Table, metric: Sequence[str]) -> list[str]:
    """Return how far each method is from the baseline on fresh data, and how much of the baseline's gap it closes."""
    study, rows = table.study, []
    for point in table.points():
        fresh = Point(study.baseline, study.fresh, point.budget)
        plain = point._replace(method=study.baseline)
        seeds = table.seeds(point, plain, fresh)
        if point.data == study.fresh or not seeds:
            continue
        best, base, ours = (
            float(table.values(p, metric, seeds).mean()) for p in (fresh, plain, point)
        )
        closed = "–" if point == plain else _percent((ours - base) / (best - base))
        rows.append(
            f"| {point.data} | {point.budget} | {point.method} | {100 * (best - ours):.1f} | {closed} |"
        )
    if not rows:
        return []
    return [
        f"## Gap to `{study.fresh}`",
        "",
        f"Points behind `{study.baseline}` on data that never repeat, at equal budget; share of its gap closed.",
        "",
        "| data | budget | method | gap | closed |",
        "|---|---|---|---|---|",
        *rows,
        "",
    ]


_Question = tuple[Comparison, str, str]


def _differences(table: Table) -> list[tuple[_Question, Difference, float]]:
    """Return every primary comparison at every data and budget, with p corrected over all of them."""
    found: list[tuple[_Question, Difference]] = []
    for pair in table.study.primary:
        for data in table.study.data:
            for budget in table.study.budgets:
                ours, theirs = (Point(method, data, budget) for method in pair)
                seeds = table.seeds(ours, theirs)
                if not seeds:
                    continue
                gap = paired_difference(
                    table.values(ours, table.study.metric, seeds),
                    table.values(theirs, table.study.metric, seeds),
                )
                found.append(((pair, data, budget), gap))
    corrected = holm([gap.p for _, gap in found])
    return [(*one, p) for one, p in zip(found, corrected, strict=True)]


def _difference_table(differences: list[tuple[_Question, Difference, float]]) -> list[str]:
    if not differences:
        return []
    lines = [
        "## Primary comparisons",
        "",
        "Paired by seed; 95% intervals by bootstrap over seeds and galleries; p by paired t-test, corrected by Holm.",
        "",
        "| data | budget | method | against | points | 95% | p | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (pair, data, budget), gap, p in differences:
        lines.append(
            f"| {data} | {budget} | {pair.method} | {pair.baseline} | {100 * gap.mean:+.1f} | "
            f"{100 * gap.low:+.1f} to {100 * gap.high:+.1f} | {_p_value(p)} | {gap.seeds} |"
        )
    return [*lines, ""]


def _p_value(p: float) -> str:
    if math.isnan(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _multipliers(table: Table) -> list[tuple[Point, Multiplier]]:
    study, found = table.study, []
    if not study.baseline:
        return []
    for budget in study.budgets:
        curve = {n: Point(study.baseline, data, budget) for data, n in study.amounts.items()}
        for point in table.points():
            if point.budget != budget or point.method == study.baseline:
                continue
            if point.data not in study.amounts:
                continue
            seeds = table.seeds(point, *curve.values())
            if not seeds or len(curve) < 2:
                continue
            ours = table.values(point, study.metric, seeds)
            baseline = {n: table.values(p, study.metric, seeds) for n, p in curve.items()}
            found.append((point, data_multiplier(study.amounts[point.data], ours, baseline)))
    return found


def _multiplier_table(study: Study, multipliers: list[tuple[Point, Multiplier]]) -> list[str]:
    if not multipliers:
        return []
    lines = [
        "## Data multipliers",
        "",
        f"How many times as much data `{study.baseline}` needs for the same quality, at equal budget. ≥ and ≤: the"
        " quality lies beyond the end of its curve.",
        "",
        "| data | budget | method | multiplier | 95% |",
        "|---|---|---|---|---|",
    ]
    for point, m in multipliers:
        lines.append(
            f"| {point.data} | {point.budget} | {point.method} | {f'{m.beyond} {m.value:.2f}'.strip()} | "
            f"{m.low:.2f} to {m.high:.2f} |"
        )
    return [*lines, ""]


def _numbers(table: Table, point: Point) -> dict[str, Any]:
    seeds = table.seeds(point)
    values = table.values(point, table.study.metric, seeds)
    return {
        **point._asdict(),
        "seeds": seeds,
        "quality": values.mean(axis=1).tolist(),
        "galleries": values.tolist(),
        **{name: table.mean_of(point, name) for name in ("seconds", "steps", "flops")},
        **{name: table.mixed(point, name) for name in _MIXED},
    }


def _code(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%"


def _with_error(mean: float, error: float) -> str:
    return f"{100 * mean:.1f}" + ("" if math.isnan(error) else f" ± {100 * error:.1f}")
