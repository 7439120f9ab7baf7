"""Evaluate during training."""

import dataclasses
from collections.abc import Mapping

import jax

from timix_jax.distributed import processes
from timix_jax.evaluators import Evaluator
from timix_jax.reporting import phases
from timix_jax.reporting.reporter import Reporter
from timix_jax.training.evaluate import Measured, flat_results, format_results, run_evaluators
from timix_jax.training.hooks.finite_check import FiniteCheck
from timix_jax.training.hooks.moment import Moment


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Runs the evaluators every `every` steps, but not after the last one, which has an evaluation of its own.

    Attributes:
      every: period in steps; 0 for never.
      evaluators: evaluation set → its evaluators.
      part: the field of the state to evaluate.
      finite_check: consulted first.
      reporter: takes the results.
      failures: gets what could not be measured.
    """

    every: int
    evaluators: Mapping[str, list[Evaluator]]
    part: str
    finite_check: FiniteCheck
    reporter: Reporter
    failures: list[Measured] = dataclasses.field(default_factory=list)

    def __call__(self, moment: Moment) -> None:
        """Evaluate if it is time to; a run that is leaving does so when it resumes."""
        if moment.is_last or moment.leaving or not moment.is_due(self.every):
            return
        self.finite_check.check_all()
        jax.block_until_ready(moment.state)
        with self.reporter.pause(phases.EVALUATE):
            measured = run_evaluators(self.evaluators, getattr(moment.state, self.part))
        self.failures.extend(m for m in measured if m.error is not None)
        self.reporter.writer.write(moment.step, flat_results(measured))
        self.reporter.printer.text(format_results(measured))

    def resume(self, start: Moment) -> None:
        """Evaluate at the step of the checkpoint that a run resumes from, if it ended before that was done."""
        written = self.reporter.writer.names_at_start
        if start.step and not processes.from_first(lambda: self._is_done(written)):
            self(start)

    def _is_done(self, written: frozenset[str]) -> bool:
        return any(name.partition("/")[0] in self.evaluators for name in written)
