"""The training loop: fetch a batch, take a step, call the hooks."""

import contextlib
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from timix_jax.distributed import processes
from timix_jax.parallel.device_batches import DeviceBatches
from timix_jax.reporting import phases
from timix_jax.reporting.chrono import is_busy
from timix_jax.reporting.reporter import Reporter
from timix_jax.runtime.compile_cache import cache_use
from timix_jax.training.build import Experiment
from timix_jax.training.hooks import Hook, Moment
from timix_jax.training.programs import run_programs
from timix_jax.training.state import TrainState


class Loop:
    """Runs the steps of a run, and calls every hook after each of them.

    **Example:**

        start = Moment(int(state.step), run.total_steps, state)
        end = Loop(run, hooks, reporter).run(start)

    Attributes:
      programs: the compiled steps, `training.programs.StepPrograms`.
    """

    def __init__(self, run: Experiment, hooks: Sequence[Hook], reporter: Reporter) -> None:
        """Compile nothing yet.

        Args:
          run: what to train, on which data.
          hooks: called in this order after each step; one that sets `Moment.leaving` ends the training there.
          reporter: learns what the loop is doing, and how fast.
        """
        self._run, self._hooks = run, hooks
        self._chrono, self._phases = reporter.chrono, reporter.phases
        self.programs = run_programs(run)

    def run(self, start: Moment) -> Moment:
        """Train from `start`, whose state is consumed, and return the moment after the last step."""
        moment = start
        with contextlib.closing(self._run.train_iterator(start.step)) as batches:
            ahead = DeviceBatches(batches, self._run.mesh, start.total_steps - start.step)
            while not (moment.is_last or moment.leaving):
                with (
                    self._chrono.waiting(functools.partial(is_busy, moment.state.step)),
                    self._phases(phases.FIRST_BATCH if moment is start else phases.DATA),
                ):
                    example_ids, batch = next(ahead)
                state, metrics = self._take_step(moment.step, moment.state, batch)
                with self._phases(phases.STEP):
                    # The new step stays in flight, so that the devices do not wait for the host.
                    jax.block_until_ready(moment.metrics)
                moment = dataclasses.replace(
                    moment,
                    step=moment.step + 1,
                    state=state,
                    metrics=metrics,
                    example_ids=example_ids,
                    skipped_examples=batches.skipped,
                )
                self._phases.step_done(moment.step)
                for hook in self._hooks:
                    hook(moment)
        self._phases.end_steps()
        return moment

    def _take_step(
        self, step: int, state: TrainState, batch: dict[str, Any]
    ) -> tuple[TrainState, Mapping[str, jax.Array]]:
        program, is_new = self.programs.at(step)
        if is_new:
            return self._take_first_step(program, step, state, batch)
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            return program(state, batch)

    def _take_first_step(
        self, program: Any, step: int, state: TrainState, batch: dict[str, Any]
    ) -> tuple[TrainState, Mapping[str, jax.Array]]:
        """Compile a program and take its first step, from whose end on the pace is measured."""
        jax.block_until_ready(state)
        with self._phases(phases.FIRST_STEP) as phase, cache_use() as cache:
            processes.compile_everywhere(program, state, batch)
            new_state, metrics = jax.block_until_ready(program(state, batch))
            ended = self.programs.ended(step)
            phase.detail = ", ".join([str(cache), *(f"without {name}" for name in ended)])
        self._chrono.start(step + 1)
        return new_state, metrics
