"""The channels through which a training run reports, in one object."""

import contextlib
import dataclasses
from collections.abc import Iterator

from timix_jax.reporting.chrono import Chrono
from timix_jax.reporting.metrics import MetricsWriter
from timix_jax.reporting.phases import Phase, Phases
from timix_jax.reporting.progress import ProgressPrinter


@dataclasses.dataclass(frozen=True)
class Reporter:
    """Receives the reports of the loop and its hooks.

    Attributes:
      writer: numbers, to metrics.jsonl, TensorBoard and Weights & Biases.
      printer: text, to the screen of the first process.
      chrono: the pace of the steps.
      phases: what the run is doing now, for the log and the watchdog.
    """

    writer: MetricsWriter
    printer: ProgressPrinter
    chrono: Chrono
    phases: Phases

    @contextlib.contextmanager
    def pause(self, phase: Phase) -> Iterator[None]:
        """Attribute the time inside to `phase` and keep it out of the pace of the steps."""
        with self.chrono.pause(), self.phases(phase):
            yield
