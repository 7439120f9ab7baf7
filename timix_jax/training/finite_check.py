"""No state goes on, and none is saved, whose loss or update is not finite; the examples of the step are named."""

import collections
import json
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
from etils import epath

from timix_jax.distributed import processes
from timix_jax.errors import UserError
from timix_jax.runtime.atomic_write import atomic_write_text

_SHOWN_IDS = 8


class _Sent(NamedTuple):
    step: int
    example_ids: np.ndarray
    metrics: Mapping[str, jax.Array]


class FiniteCheck:
    """Checks the steps that were sent to the devices; by all processes alike.

    Args:
      folder: gets `nonfinite-STEP.json`: step, metrics, and the ids of the examples of all processes.
    """

    def __init__(self, folder: epath.Path) -> None:
        self._folder = folder
        self._unchecked: collections.deque[_Sent] = collections.deque()

    def sent(self, step: int, example_ids: np.ndarray, metrics: Mapping[str, jax.Array]) -> None:
        """Notes a step: the ids of this process's examples, and metrics of which "finite" is checked."""
        self._unchecked.append(_Sent(step, example_ids, metrics))

    def check(self, *, leave: int, saved: int | None) -> None:
        """Waits for all steps that were sent but the last `leave`.

        Args:
          leave: how many stay in flight, so that the devices are not held up.
          saved: the newest checkpoint, for the message.

        Raises:
          UserError: a step was not finite, on all processes.
        """
        while len(self._unchecked) > leave:
            one = self._unchecked.popleft()
            if not bool(one.metrics["finite"]):
                raise self._error(one, saved)

    def _error(self, one: _Sent, saved: int | None) -> UserError:
        path = self._folder / f"nonfinite-{one.step}.json"
        example_ids = [i for part in processes.gather(one.example_ids.tolist()) for i in part]
        record = {
            "step": one.step,
            "example_ids": example_ids,
            "metrics": {name: repr(float(value)) for name, value in one.metrics.items()},
        }
        if processes.is_first():
            atomic_write_text(path, json.dumps(record, indent=2))
        ids = ", ".join(map(str, example_ids[:_SHOWN_IDS]))
        good = "none yet" if saved is None else f"checkpoint {saved}"
        return UserError(
            f"the loss or its update is not finite at step {one.step} (examples {ids}, …: all in {path}); last good "
            f"state: {good} in {self._folder}; lower config.optim.lr or look at these examples"
        )
