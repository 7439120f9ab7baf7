"""The compiled training step, and another one when an objective ends."""

from collections.abc import Callable, Sequence
from typing import Any

from timix_jax.experiment import Experiment
from timix_jax.objectives.base import Objective
from timix_jax.train_step import jit_train_step, make_train_step


class StepPrograms:
    """Step → its program. An objective that has ended (``ends_at``) is not in the program any more.

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
        self._lasting: list[str] = []

    def at(self, step: int) -> tuple[Any, bool]:
        """The program of a step, and whether it is another one than the last; the last one is then let go."""
        lasting = [o for o in self._objectives if o.ends_at is None or step < o.ends_at]
        names = [o.name for o in lasting]
        new = self._program is None or names != self._lasting
        if new:
            self._program, self._lasting = self._build(lasting), names
        return self._program, new

    def ended(self, step: int) -> list[str]:
        """Names of the objectives that are not in the program of ``step``."""
        return [o.name for o in self._objectives if o.ends_at is not None and step >= o.ends_at]


def run_programs(run: Experiment) -> StepPrograms:
    """The programs of a run, on its mesh; the state that they take is donated."""

    def build(objectives: Sequence[Objective]) -> Any:
        step = make_train_step(
            run.model,
            objectives,
            run.optimizer,
            schedule=run.schedule,
            ema_decay=run.config.optim.ema,
            seed=run.config.seed,
        )
        return jit_train_step(step, run.layout, run.abstract_state)

    return StepPrograms(build, run.objectives)
