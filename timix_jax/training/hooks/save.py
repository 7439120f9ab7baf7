"""Save checkpoints."""

import dataclasses
import functools
from typing import Any

from timix_jax.checkpointing import Checkpointer
from timix_jax.data.sources import describe_sources
from timix_jax.parallel.mesh import batch_shards
from timix_jax.reporting import phases
from timix_jax.reporting.reporter import Reporter
from timix_jax.training.build import Experiment
from timix_jax.training.hooks.finite_check import FiniteCheck
from timix_jax.training.hooks.moment import Moment


@dataclasses.dataclass(frozen=True)
class Save:
    """Starts a save at its period, after the last step, and when the run is leaving.

    Attributes:
      run: whose configuration, tokenizer and data are stored with the state.
      checkpointer: writes in the background.
      finite_check: consulted first, so that nothing broken is ever saved.
      reporter: its lines are flushed first.
    """

    run: Experiment
    checkpointer: Checkpointer
    finite_check: FiniteCheck
    reporter: Reporter

    def __call__(self, moment: Moment) -> None:
        """Save if it is time to."""
        if not (moment.is_due(self.run.every["checkpoint"]) or moment.leaving):
            return
        self.finite_check.check_all()
        with self.reporter.pause(phases.SAVE):
            # A run resumed from this step would lack the lines that are not written yet.
            self.reporter.writer.flush()
            sources = describe_sources(self.run.sources)
            data = {"next_index": moment.step, "sources": sources}
            meta = {"step": moment.step, "data": data, **self._run_meta}
            self.checkpointer.save(moment.step, moment.state, meta)
        self.finite_check.last_saved = moment.step

    @functools.cached_property
    def _run_meta(self) -> dict[str, Any]:
        return {
            "config": self.run.settings.flat,
            "tokenizer": self.run.tokenizer.to_json(),
            "batch_shards": batch_shards(self.run.mesh),
        }
