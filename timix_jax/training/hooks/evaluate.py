"""Evaluate during training."""

import dataclasses
from collections.abc import Mapping

import jax

from timix_jax.evaluators import Evaluator
from timix_jax.reporting import phases
from timix_jax.reporting.reporter import Reporter
from timix_jax.training.evaluate import flat_results, format_results, run_evaluators
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
    """

    every: int
    evaluators: Mapping[str, list[Evaluator]]
    part: str
    finite_check: FiniteCheck
    reporter: Reporter

    def __call__(self, moment: Moment) -> None:
        """Evaluate if it is time to."""
        if moment.is_last or not moment.is_due(self.every):
            return
        self.finite_check.check_all()
        jax.block_until_ready(moment.state)
        with self.reporter.pause(phases.EVALUATE):
            measured = run_evaluators(self.evaluators, getattr(moment.state, self.part))
        self.reporter.writer.write(moment.step, flat_results(measured))
        self.reporter.printer.text(format_results(measured))
