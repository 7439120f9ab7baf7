"""The compiled training step, and another one when an objective ends."""

from collections.abc import Callable, Sequence
from typing import Any

from timix_jax.objectives import Objective, objectives_at
from timix_jax.training.build import Plan


class StepPrograms:
    """Step → its program, of the objectives that train then (`objectives.base.objectives_at`).

    The alternative is one program with a conditional: on TPU slices configs/vitb16.py then takes 40% longer to
    compile and 5% more memory, from its first step on; so a run whose mixing ends compiles once more on the way.
    """

    def __init__(
        self, build: Callable[[Sequence[Objective]], Any], objectives: Sequence[Objective]
    ) -> None:
        """Builds nothing yet.

        Args:
          build: makes the jitted step of these objectives.
          objectives: all of the run.
        """
        self._build, self._objectives = build, objectives
        self._program: Any = None
        self._present: list[Objective] = []

    def at(self, step: int) -> tuple[Any, bool]:
        """The program of a step, and whether it is another one than the last; the last one is then let go."""
        present = objectives_at(self._objectives, step)
        new = self._program is None or present != self._present
        if new:
            self._program, self._present = self._build(present), present
        return self._program, new

    def ended(self, step: int) -> list[str]:
        """Names of the objectives that are not in the program of `step`."""
        present = objectives_at(self._objectives, step)
        return [o.name for o in self._objectives if o.starts_at <= step and o not in present]


def run_programs(plan: Plan) -> StepPrograms:
    """The programs of a training, on its mesh; the state that they take is donated."""

    return StepPrograms(plan.train_step, plan.objectives)
