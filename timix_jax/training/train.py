"""Training: wiring, the loop, and what is written at its end."""

import contextlib
import functools
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from timix_jax.checkpointing import Checkpointer
from timix_jax.config import MUTABLE_FIELDS, complete, flatten
from timix_jax.data.sources import describe_sources
from timix_jax.data.tokenizers import Tokenizer
from timix_jax.distributed import processes
from timix_jax.distributed.preemption import Preemption, stopped_line
from timix_jax.distributed.run_lock import only_run
from timix_jax.distributed.shared_folder import check_same_config, check_shared
from timix_jax.errors import located
from timix_jax.evaluators import Evaluator
from timix_jax.parallel.device_batches import DeviceBatches
from timix_jax.parallel.mesh import batch_shards
from timix_jax.reporting import phases
from timix_jax.reporting.fleet import SKIPPED, over_processes
from timix_jax.reporting.metrics import RESULTS_FILE, MetricsWriter, write_results
from timix_jax.reporting.peak_memory import peak_memory
from timix_jax.reporting.phases import Phases
from timix_jax.reporting.profiling import StepProfiler, Window, check_window, parse_window
from timix_jax.reporting.progress import Chrono, ProgressPrinter, under_way
from timix_jax.reporting.summary import run_summary
from timix_jax.reporting.watchdog import watched_phases
from timix_jax.runtime import workdir as workdirs
from timix_jax.runtime.atomic_write import atomic_write_text
from timix_jax.runtime.compile_cache import cache_use
from timix_jax.runtime.log import print_text
from timix_jax.runtime.remote import as_path, check_reachable
from timix_jax.training import build as experiments
from timix_jax.training.build import Experiment
from timix_jax.training.evaluate import evaluated_part, flat_results, format_results, run_evaluators
from timix_jax.training.finite_check import FiniteCheck
from timix_jax.training.pictures import draw_run
from timix_jax.training.programs import run_programs
from timix_jax.training.start import (
    check_init_from,
    initial_state,
    resumes_checkpoint,
    stored_tokenizer,
)
from timix_jax.training.state import TrainState

_OPEN_S = 24 * 3600


def train_and_evaluate(config: ConfigDict, workdir: str, *, profile: str = "") -> dict[str, float]:
    """Trains from the newest checkpoint of `workdir` (or from the start) to the end, then evaluates.

    Args:
      config: a recipe; see `timix_jax.config`.
      workdir: gets config.json, tokenizer.json, checkpoints/, metrics.jsonl, results.json and pictures/.
      profile: `START:STOP`, the steps whose trace is written to `WORKDIR/profile`; empty for none.

    Returns:
      The content of results.json: `SET/METRIC` → fraction; empty for a run that SIGTERM ended, which goes on when
      it is started again.
    """
    config = complete(config)
    part = evaluated_part(config)
    folder = as_path(workdir)
    check_reachable(folder, "--workdir=")
    window = parse_window(profile)
    with watched_phases() as watch:
        return _train(config, folder, part, window, watch)


def _train(
    config: ConfigDict, folder: epath.Path, part: str, window: Window | None, watch: Phases
) -> dict[str, float]:
    with watch(phases.OPEN):
        run, evaluators = _open_run(config, folder, window)
    with (
        Checkpointer(
            folder / workdirs.CHECKPOINTS_FOLDER,
            keep_last=config.checkpoint.keep_last,
            keep_every=config.checkpoint.keep_every or None,
        ) as checkpointer,
        only_run(folder),
        Preemption() as preemption,
    ):
        with watch(phases.INITIAL_STATE):
            state, _ = initial_state(run, checkpointer)
            jax.block_until_ready(state)
        first_step = int(state.step)
        with MetricsWriter(
            folder, first_step=first_step, tensorboard=config.log.tensorboard
        ) as writer:
            loop = Loop(run, evaluators, checkpointer, writer, folder, part, watch, window)
            state = loop.run(state, preemption)
            if loop.preempted:
                return {}
            with watch(phases.EVALUATE):
                measured = run_evaluators(evaluators, getattr(state, part))
            results = flat_results(measured)
            writer.write(run.total_steps, results)
        with watch(phases.LAST_CHECKPOINT):
            checkpointer.wait()
    write_results(folder / RESULTS_FILE, results)
    params = processes.on_host(getattr(state, part))
    if processes.is_first():
        with watch(phases.DRAW):
            draw_run(run, params, folder)
        print_text(f"\n{format_results(measured)}\nwritten to {folder}")
    return results


def _open_run(
    config: ConfigDict, folder: epath.Path, window: Window | None
) -> tuple[Experiment, dict[str, list[Evaluator]]]:
    """Builds everything, and only then writes to the folder: a mistake leaves nothing behind."""
    flat = flatten(config)
    check_same_config(flat)
    check_shared(folder)
    tokenizer_file = folder / workdirs.TOKENIZER_FILE

    def stored() -> tuple[bool, str]:
        if (folder / workdirs.CONFIG_FILE).exists():
            workdirs.open_workdir(folder, flat, ignore=MUTABLE_FIELDS)
        elif not resumes_checkpoint(folder, flat, ignore=MUTABLE_FIELDS):
            return False, ""
        there = tokenizer_file.exists()
        text = tokenizer_file.read_bytes().decode(errors="replace") if there else ""
        return True, text or stored_tokenizer(folder)

    begun, tokenizer = processes.from_first(stored)
    with located(f"{tokenizer_file}: "):
        begun_with = Tokenizer.from_json(tokenizer) if tokenizer else None
    run = experiments.build(config, tokenizer=begun_with)
    evaluators = experiments.build_evaluators(config, run.model, run.tokenizer, run.mesh)
    check_window(window, run.total_steps, folder)
    run.train_iterator(0).close()  # refuses what the input pipeline cannot do
    if config.init_from and not begun:
        with located("config.init_from: "):
            check_init_from(run, config.init_from)
    # An error of another process leaves nothing behind either. One may have to copy its data first.
    processes.gather("built", timeout_s=_OPEN_S)
    if processes.is_first():
        workdirs.open_workdir(folder, flat, ignore=MUTABLE_FIELDS)
        if not tokenizer_file.exists() or not tokenizer_file.read_text():
            atomic_write_text(tokenizer_file, run.tokenizer.to_json())
    return run, evaluators


class Loop:
    """The training loop: fetch, step, and at their periods log, evaluate and save."""

    def __init__(
        self,
        run: Experiment,
        evaluators: dict[str, list[Evaluator]],
        checkpointer: Checkpointer,
        writer: MetricsWriter,
        folder: epath.Path,
        part: str,
        watch: Phases,
        window: Window | None = None,
    ) -> None:
        """Compiles nothing yet."""
        self._watch, self._profiler = watch, StepProfiler(window, folder)
        self._run, self._evaluators, self._part = run, evaluators, part
        self._checkpointer, self._writer, self._folder = checkpointer, writer, folder
        self._chrono = Chrono(
            total_steps=run.total_steps,
            batch_size=run.batch_size,
            devices=run.mesh.size,
            flops=run.training_flops,
            peak_flops=run.peak_flops,
        )
        self._printer = ProgressPrinter(
            total_steps=run.total_steps, weights={o.name: o.weight for o in run.objectives}
        )
        self._programs = run_programs(run)
        self._saved: int | None = None
        self.preempted = False
        self._meta = {
            "config": flatten(run.config),
            "tokenizer": run.tokenizer.to_json(),
            "batch_shards": batch_shards(run.mesh),
        }

    def run(self, state: TrainState, preemption: Preemption) -> TrainState:
        """Trains to the last step, or to the one at which it is to end early; the state given is consumed."""
        self._printer.text(run_summary(self._run, state, str(self._folder)))
        first_step = step = int(state.step)
        self._saved = first_step or None
        if step >= self._run.total_steps:
            return state
        batches = self._run.train_iterator(step)
        ahead = DeviceBatches(batches, self._run.mesh, self._run.total_steps - step)
        finite = FiniteCheck(self._folder)
        with contextlib.closing(batches), self._profiler:
            while step < self._run.total_steps:
                self._profile(step, state)
                first = step == first_step
                program, new = self._programs.at(step)
                with (
                    self._chrono.waiting(functools.partial(under_way, state.step)),
                    self._watch(phases.FIRST_BATCH if first else phases.DATA),
                ):
                    ids, batch = next(ahead)
                if new:
                    state, metrics = self._first_step(program, step, state, batch)
                    self._chrono.begin(step + 1)
                else:
                    with jax.profiler.StepTraceAnnotation("train", step_num=step):
                        state, metrics = program(state, batch)
                finite.sent(step, ids, metrics)
                step += 1
                # One step stays in flight, so that the check does not hold up the devices.
                with self._watch(phases.STEP):
                    finite.check(leave=1, saved=self._saved)
                self._watch.step_done(step)
                due = self._due(step)
                if due["log"]:
                    self._log(step, metrics, batches.skipped)
                if due["eval"] or due["checkpoint"]:
                    finite.check(leave=0, saved=self._saved)  # nothing broken is ever saved
                # Before the save: a run killed in between would be resumed without these figures.
                if due["eval"] and step < self._run.total_steps:
                    self._evaluate(step, state)
                leaving = preemption.reached(step) and step < self._run.total_steps
                if leaving:
                    finite.check(leave=0, saved=self._saved)
                if due["checkpoint"] or leaving:
                    self._save(step, state, last=leaving or step == self._run.total_steps)
                if leaving:
                    self._leave(step)
                    break
            self._profile(step, state)
        self._watch.end_steps()
        return state

    def _first_step(
        self, program: Any, step: int, state: TrainState, batch: dict[str, Any]
    ) -> tuple[TrainState, Mapping[str, jax.Array]]:
        """The first step of a program; the clock begins anew behind it."""
        jax.block_until_ready(state)
        with self._watch(phases.FIRST_STEP) as phase, cache_use() as cache:
            processes.compile_everywhere(program, state, batch)
            done = jax.block_until_ready(program(state, batch))
            ended = self._programs.ended(step)
            phase.detail = ", ".join([str(cache), *(f"without {name}" for name in ended)])
        return done

    def _profile(self, step: int, state: TrainState) -> None:
        if self._profiler.due(step):
            jax.block_until_ready(state)
            with self._chrono.pause(), self._watch(phases.PROFILE):
                self._profiler.turn(step)

    def _due(self, step: int) -> dict[str, bool]:
        last = step == self._run.total_steps
        return {
            name: last or (period > 0 and step % period == 0)
            for name, period in self._run.every.items()
        }

    def _log(self, step: int, metrics: Mapping[str, jax.Array], skipped: int) -> None:
        values = {name: float(v) for name, v in metrics.items() if name != "finite"}
        speed = self._chrono.read(step)
        if speed is not None:
            values |= speed.metrics()
        values |= peak_memory(self._run.mesh.local_devices)
        values, slowest = over_processes(values | {SKIPPED: skipped})
        self._writer.write(step, values)
        self._printer.line(step, values, speed, slowest)

    def _save(self, step: int, state: TrainState, *, last: bool) -> None:
        with self._chrono.pause(), self._watch(phases.SAVE):
            self._writer.flush()  # resumed from this step, a run would lack lines that are missing now
            data = {"next_index": step, "sources": describe_sources(self._run.sources)}
            meta = {"step": step, "data": data, **self._meta}
            self._checkpointer.save(step, state, meta, give_way=not last)
        self._saved = step

    def _leave(self, step: int) -> None:
        with self._watch(phases.LAST_CHECKPOINT):
            self._checkpointer.wait()
        self.preempted = True
        self._printer.text(stopped_line(step, self._folder))

    def _evaluate(self, step: int, state: TrainState) -> None:
        jax.block_until_ready(state)
        with self._chrono.pause(), self._watch(phases.EVALUATE):
            measured = run_evaluators(self._evaluators, getattr(state, self._part))
        self._writer.write(step, flat_results(measured))
        self._printer.text(format_results(measured))
