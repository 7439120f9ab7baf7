"""The grid of a study, from its configuration to single runs."""

import dataclasses
import itertools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from timix_jax.errors import UserError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
_WITHOUT_CHANGE: Mapping[str, tuple[str, ...]] = {"all": ()}


class Cell(NamedTuple):
    """One run of the grid.

    Attributes:
      method, data, budget: keys of the study's axes.
      seed: value of `config.seed`.
    """

    method: str
    data: str
    budget: str
    seed: int

    @property
    def folder(self) -> str:
        """Name of its folder, unique within the study."""
        return f"{self.method}--{self.data}--{self.budget}--seed{self.seed}"


class Comparison(NamedTuple):
    """A question that the study answers: is `method` better than `baseline`?"""

    method: str
    baseline: str


@dataclasses.dataclass(frozen=True)
class Study:
    """A grid of runs and what to read from it.

    Attributes:
      recipe: the configuration file of every run.
      common: changes that all runs share, `FIELD=VALUE` as after `--config.`.
      methods, data, budgets: name → changes; the axes of the grid.
      seeds: one run per seed and combination, paired by seed.
      metric: the metric that comparisons are about: keys of results.json, averaged. `*` stands for any text in a key.
      tables: title → further metrics to report, likewise.
      primary: the comparisons whose p-values are corrected together (Holm).
      amounts: data name → number of examples, for curves and data multipliers; empty for none.
      baseline: the method whose curve over amounts defines the data multiplier.
      only: data name → the methods that are trained on it; all methods on data that are not named.
      fresh: the data name without repeated examples, whose quality bounds what a method can gain; empty for none.

    Raises:
      UserError: an axis is empty, a name cannot be part of a file name, or a comparison names no method.
    """

    recipe: str
    metric: tuple[str, ...]
    methods: Mapping[str, tuple[str, ...]]
    seeds: tuple[int, ...]
    data: Mapping[str, tuple[str, ...]] = dataclasses.field(
        default_factory=lambda: dict(_WITHOUT_CHANGE)
    )
    budgets: Mapping[str, tuple[str, ...]] = dataclasses.field(
        default_factory=lambda: dict(_WITHOUT_CHANGE)
    )
    common: tuple[str, ...] = ()
    tables: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    primary: tuple[Comparison, ...] = ()
    amounts: Mapping[str, float] = dataclasses.field(default_factory=dict)
    baseline: str = ""
    fresh: str = ""
    only: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for axis in ("methods", "data", "budgets", "seeds", "metric"):
            if not getattr(self, axis):
                raise UserError(f"study.{axis} is empty; name at least one")
        for axis in ("methods", "data", "budgets"):
            for name, changes in getattr(self, axis).items():
                if not _NAME.fullmatch(name) or "--" in name:
                    raise UserError(
                        f"study.{axis}: {name!r} becomes part of a folder's name; use letters, digits and . _ + -"
                    )
                _check_changes(f"study.{axis}.{name}", changes)
        _check_changes("study.common", self.common)
        if len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"study.seeds={self.seeds}: a seed is named twice")
        for pair in self.primary:
            for method in pair:
                self._known("primary", method, self.methods)
        if self.baseline:
            self._known("baseline", self.baseline, self.methods)
        for name in self.amounts:
            self._known("amounts", name, self.data)
        for data, methods in self.only.items():
            self._known("only", data, self.data)
            for method in methods:
                self._known(f"only.{data}", method, self.methods)
        if self.fresh:
            self._known("fresh", self.fresh, self.data)
            if not self.baseline:
                raise UserError(
                    "study.fresh needs study.baseline, whose gap to fresh data is meant"
                )

    def _known(self, field: str, name: str, axis: Mapping[str, Any]) -> None:
        if name not in axis:
            raise UserError(f"study.{field} names {name!r}; known are {', '.join(axis)}")

    def cells(self) -> list[Cell]:
        """Return every run, seeds outermost: a study that is stopped early has whole seeds."""
        return [
            Cell(method, data, budget, seed)
            for seed, budget, data, method in itertools.product(
                self.seeds, self.budgets, self.data, self.methods
            )
            if method in self.only.get(data, self.methods)
        ]

    def changes(self, cell: Cell) -> tuple[str, ...]:
        """Return the changes to the recipe that make a cell; later ones win."""
        changes = (
            *self.common,
            *self.budgets[cell.budget],
            *self.data[cell.data],
            *self.methods[cell.method],
            f"seed={cell.seed}",
        )
        # Given twice, a flag is an error of the command line.
        return tuple({change.partition("=")[0]: change for change in changes}.values())


def read_study(fields_given: Mapping[str, Any]) -> Study:
    """Turn the fields that a study's file gives into a `Study`.

    Raises:
      UserError: an unknown or missing field, or a value that cannot work.
    """
    given = dict(fields_given)
    fields = {field.name: field for field in dataclasses.fields(Study)}
    unknown = sorted(set(given) - set(fields))
    if unknown:
        raise UserError(f"study.{unknown[0]} is unknown; the fields are {', '.join(fields)}")
    required = [
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in required if name not in given]
    if missing:
        raise UserError(f"study.{missing[0]} is missing")
    given["primary"] = tuple(Comparison(*pair) for pair in given.get("primary", ()))
    return Study(**given)


def _check_changes(where: str, changes: Any) -> None:
    if isinstance(changes, str):
        raise UserError(f"{where}={changes!r}: give a tuple of changes, ('FIELD=VALUE',)")
    for change in changes:
        if not re.match(r"[a-z_0-9.]+=", change):
            raise UserError(f"{where}: {change!r}; write FIELD=VALUE as after --config.")
