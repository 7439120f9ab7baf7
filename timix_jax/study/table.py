"""The values of a study by method, data, budget, seed and gallery."""

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from timix_jax.errors import UserError
from timix_jax.study.plan import Cell, Study


class Point(NamedTuple):
    """One place in the grid, whatever the seed."""

    method: str
    data: str
    budget: str


class Table:
    """Records of finished runs, arranged by point and seed."""

    def __init__(self, study: Study, records: Mapping[Cell, Mapping[str, Any]]) -> None:
        """Arrange records; runs may be missing."""
        self.study, self.records = study, records

    def points(self) -> list[Point]:
        """Return the points of which a run has ended, in the study's order."""
        found = {Point(cell.method, cell.data, cell.budget) for cell in self.records}
        return [
            point
            for data in self.study.data
            for budget in self.study.budgets
            for method in self.study.methods
            if (point := Point(method, data, budget)) in found
        ]

    def seeds(self, *points: Point) -> list[int]:
        """Return the seeds that all these points have."""
        return [
            seed
            for seed in self.study.seeds
            if all(Cell(*point, seed) in self.records for point in points)
        ]

    def values(self, point: Point, metric: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """Return (S, G): per seed and gallery the mean of the metrics that belong to the gallery.

        The part of a key before the slash names its evaluation set; each set is a gallery.

        Raises:
          UserError: no result matches.
        """
        rows = [self._row(Cell(*point, seed), metric) for seed in seeds]
        if len({tuple(row) for row in rows}) > 1:
            raise UserError(f"{point}: its runs have different metrics for {', '.join(metric)}")
        return np.array([list(row.values()) for row in rows], np.float64)

    def _row(self, cell: Cell, metric: Sequence[str]) -> dict[str, float]:
        results = self.records[cell]["results"]
        galleries: dict[str, list[float]] = {}
        for pattern in metric:
            keys = _matching(sorted(results), pattern)
            if not keys:
                raise UserError(
                    f"study metric {pattern!r} matches no result of {cell.folder}, which has "
                    + ", ".join(sorted(results))
                )
            for key in keys:
                galleries.setdefault(key.partition("/")[0], []).append(results[key])
        return {name: float(np.mean(values)) for name, values in galleries.items()}

    def mean_of(self, point: Point, field: str) -> float:
        """Return the mean of a number that records hold beside their results, such as "seconds"."""
        values = [self.records[Cell(*point, seed)].get(field) for seed in self.seeds(point)]
        return float(np.mean([value for value in values if value is not None] or [np.nan]))

    def mixed(self, point: Point, name: str) -> float:
        """Return the mean share `mixed_images`, `mixed_patches` or `mixed_captions`; 0 if nothing was mixed."""
        return float(
            np.mean(
                [
                    self.records[Cell(*point, seed)]["mixed"].get(name, 0.0)
                    for seed in self.seeds(point)
                ]
            )
        )


def _matching(keys: Sequence[str], pattern: str) -> list[str]:
    """Return the keys that fit; what chance would give is left out unless the pattern asks for it by name."""
    found = fnmatch.filter(keys, pattern)
    return [key for key in found if "chance" in pattern or "chance" not in key]
