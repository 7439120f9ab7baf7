"""Jitted training steps by the objectives they train, and what each costs."""

from collections.abc import Callable, Sequence
from typing import Any

from timix_jax.objectives import Objective
from timix_jax.training.flops import StepFlops, count_flops


class Steps:
    """Builds the step of each set of objectives and counts its FLOPs.

    Only the step requested last is kept, so that counting its FLOPs and running it share one trace and earlier steps
    are freed.
    """

    def __init__(
        self, build: Callable[[Sequence[Objective]], Any], arguments: Callable[[], tuple[Any, Any]]
    ) -> None:
        """Initialise without building anything.

        Args:
          build: returns the jitted step of these objectives.
          arguments: returns the shapes and shardings of state and batch.
        """
        self._build, self._arguments = build, arguments
        self._last: tuple[list[Objective], Any] | None = None
        self._counted: list[tuple[list[Objective], StepFlops]] = []

    def jitted(self, objectives: Sequence[Objective]) -> Any:
        """Return the jitted step of these objectives."""
        present = list(objectives)
        if self._last is None or self._last[0] != present:
            self._last = present, self._build(present)
        return self._last[1]

    def flops(self, objectives: Sequence[Objective]) -> StepFlops:
        """Return the FLOPs of one step; each set of objectives is traced and counted once."""
        present = list(objectives)
        for counted, flops in self._counted:
            if counted == present:
                return flops
        flops = count_flops(self.jitted(present).trace(*self._arguments()).jaxpr)
        self._counted.append((present, flops))
        return flops
