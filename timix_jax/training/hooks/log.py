"""Log the metrics of a step, the pace and the memory, of all processes together."""

import dataclasses
from collections.abc import Sequence

import jax

from timix_jax.reporting.metrics import SKIPPED, over_processes
from timix_jax.reporting.peak_memory import peak_memory
from timix_jax.reporting.reporter import Reporter
from timix_jax.training.hooks.moment import Moment


@dataclasses.dataclass(frozen=True)
class Log:
    """Writes a line to metrics.jsonl and to the screen every `every` steps.

    Attributes:
      every: period in steps; 0 for the last step only.
      reporter: takes the numbers and the line.
      devices: those of this process, whose memory is logged.
    """

    every: int
    reporter: Reporter
    devices: Sequence[jax.Device]

    def __call__(self, moment: Moment) -> None:
        """Log if it is time to."""
        if not moment.is_due(self.every):
            return
        # Reading the metrics waits for the step, before the clock is read.
        values = {name: float(v) for name, v in moment.metrics.items() if name != "finite"}
        speed = self.reporter.chrono.read(moment.step)
        if speed is not None:
            values |= speed.metrics()
        values |= peak_memory(self.devices)
        values, slowest = over_processes(values | {SKIPPED: moment.skipped_examples})
        self.reporter.writer.write(moment.step, values)
        self.reporter.printer.line(moment.step, values, speed, slowest)
