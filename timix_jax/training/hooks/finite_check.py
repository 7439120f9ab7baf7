"""Stop a run whose loss or update is not finite, and name the examples of that step."""

import collections
import json

import numpy as np
from etils import epath

from timix_jax.distributed import processes
from timix_jax.errors import UserError
from timix_jax.runtime.atomic_write import atomic_write_text
from timix_jax.training.hooks.moment import Moment

_SHOWN_IDS = 8


class FiniteCheck:
    """Checks every step, one step late so that the devices never wait; all processes agree.

    Hooks that use the weights call `check_all` first.

    Args:
      workdir: gets `nonfinite-STEP.json`: the step, numbered as in metrics.jsonl, its metrics and the ids of all its
        examples.
      last_saved: step of the newest checkpoint, for the error message; None without one. `Save` keeps it up to date.
    """

    def __init__(self, workdir: epath.Path, last_saved: int | None) -> None:
        self.last_saved = last_saved
        self._workdir = workdir
        self._unchecked: collections.deque[Moment] = collections.deque()

    def __call__(self, moment: Moment) -> None:
        """Check all steps before the last one.

        Raises:
          UserError: a step was not finite, on all processes.
        """
        self._unchecked.append(moment)
        self._check(in_flight=1)

    def check_all(self) -> None:
        """Wait for the last step and check it too; raises like `__call__`."""
        self._check(in_flight=0)

    def _check(self, in_flight: int) -> None:
        while len(self._unchecked) > in_flight:
            moment = self._unchecked.popleft()
            if not bool(moment.metrics["finite"]):
                raise self._error(moment)

    def _error(self, moment: Moment) -> UserError:
        step = moment.step  # as in metrics.jsonl
        path = self._workdir / f"nonfinite-{step}.json"
        own_ids = np.asarray(moment.example_ids).tolist()
        example_ids = [i for ids in processes.gather(own_ids) for i in ids]
        record = {
            "step": step,
            "example_ids": example_ids,
            "metrics": {name: repr(float(value)) for name, value in moment.metrics.items()},
        }
        if processes.is_first():
            atomic_write_text(path, json.dumps(record, indent=2))
        shown_ids = ", ".join(map(str, example_ids[:_SHOWN_IDS]))
        last_good = "none yet" if self.last_saved is None else f"checkpoint {self.last_saved}"
        return UserError(
            f"the loss or its update is not finite at step {step} (examples {shown_ids}, …: all in {path});"
            f" last good state: {last_good} in {self._workdir}; lower config.optim.lr or look at these examples"
        )
