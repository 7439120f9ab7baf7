"""The compiled training steps of a run: another one whenever an objective starts or ends."""

from collections.abc import Callable, Sequence
from typing import Any

from timix_jax.objectives import Objective, objectives_at
from timix_jax.training.build import Plan


class StepPrograms:
    """Maps a step to the program of the objectives that are active then (`objectives.base.objectives_at`).

    A run whose mixing ends compiles a second program on the way. One program with a conditional would make
    configs/vitb16_boxes.py on TPU slices compile 40% longer and use 5% more memory from its first step on.

    Args:
      build: returns the jitted step for these objectives.
      objectives: all objectives of the run.
    """

    def __init__(
        self, build: Callable[[Sequence[Objective]], Any], objectives: Sequence[Objective]
    ) -> None:
        self._build, self._objectives = build, objectives
        self._program: Any = None
        self._active: list[Objective] = []

    def at(self, step: int) -> tuple[Any, bool]:
        """Return the program of a step, and True if it differs from the previous one, which is dropped."""
        active = objectives_at(self._objectives, step)
        is_new = self._program is None or active != self._active
        if is_new:
            self._program, self._active = self._build(active), active
        return self._program, is_new

    def ended(self, step: int) -> list[str]:
        """Return the names of the objectives that have ended by `step`."""
        return [o.name for o in self._objectives if o.ends_at is not None and step >= o.ends_at]


def run_programs(plan: Plan) -> StepPrograms:
    """Return the programs of a training on its mesh; they donate the state that they take."""

    return StepPrograms(plan.train_step, plan.objectives)
