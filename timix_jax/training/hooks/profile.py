"""Start and stop the profiler trace of a window of steps."""

import dataclasses

import jax

from timix_jax.reporting import phases
from timix_jax.reporting.profiling import StepProfiler
from timix_jax.reporting.reporter import Reporter
from timix_jax.training.hooks.moment import Moment


@dataclasses.dataclass(frozen=True)
class Profile:
    """Turns the profiler on and off between steps; the pace of the steps leaves that time out."""

    profiler: StepProfiler
    reporter: Reporter

    def __call__(self, moment: Moment) -> None:
        """Start or stop the trace if it is time to."""
        if self.profiler.is_due(moment.step):
            jax.block_until_ready(moment.state)
            with self.reporter.pause(phases.PROFILE):
                self.profiler.toggle(moment.step)
