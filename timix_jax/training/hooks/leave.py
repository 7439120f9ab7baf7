"""End the training early when the machine is about to be taken away."""

import dataclasses

from timix_jax.distributed.preemption import Preemption
from timix_jax.training.hooks.moment import Moment


@dataclasses.dataclass(frozen=True)
class Leave:
    """Marks the moment at which a run that received SIGTERM saves and ends; the last step ends by itself."""

    preemption: Preemption

    def __call__(self, moment: Moment) -> None:
        """Set `moment.leaving`, on all processes at the same step."""
        moment.leaving = self.preemption.reached(moment.step) and not moment.is_last
