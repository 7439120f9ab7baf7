"""Train a run and evaluate its result: `--mode=train`."""

from collections.abc import Mapping, Sequence

import jax
from ml_collections import ConfigDict

from timix_jax.checkpointing import Checkpointer
from timix_jax.distributed import processes
from timix_jax.distributed.preemption import Preemption, stopped_line
from timix_jax.distributed.run_lock import only_run
from timix_jax.evaluators import Evaluator
from timix_jax.reporting import phases
from timix_jax.reporting.chrono import Chrono
from timix_jax.reporting.metrics import RESULTS_FILE, MetricsWriter, write_results
from timix_jax.reporting.phases import Phases
from timix_jax.reporting.profiling import StepProfiler, parse_window
from timix_jax.reporting.progress import ProgressPrinter
from timix_jax.reporting.reporter import Reporter
from timix_jax.reporting.watchdog import watched_phases
from timix_jax.reporting.weights_and_biases import check_installed
from timix_jax.runtime.log import print_text
from timix_jax.runtime.remote import as_path, check_reachable
from timix_jax.training.build import Experiment, evaluated_part, open_checkpointer, read_settings
from timix_jax.training.evaluate import (
    complete_results,
    flat_results,
    format_results,
    raise_failures,
    run_evaluators,
)
from timix_jax.training.hooks import Hook, Moment
from timix_jax.training.hooks.evaluate import Evaluate
from timix_jax.training.hooks.finite_check import FiniteCheck
from timix_jax.training.hooks.leave import Leave
from timix_jax.training.hooks.log import Log
from timix_jax.training.hooks.profile import Profile
from timix_jax.training.hooks.save import Save
from timix_jax.training.loop import Loop
from timix_jax.training.open_run import open_run
from timix_jax.training.start import initial_state
from timix_jax.training.summary import run_summary

_DRAW_S = 3600  # until the first process has drawn the pictures


def train_and_evaluate(config: ConfigDict, workdir: str, *, profile: str = "") -> dict[str, float]:
    """Train to the end, from the newest checkpoint in `workdir` or from the start, and evaluate.

    Args:
      config: a recipe; see `timix_jax.config`.
      workdir: gets config.json, tokenizer.json, checkpoints/, metrics.jsonl, results.json and pictures/.
      profile: `START:STOP`, the steps whose trace is written to `WORKDIR/profile`; empty for none.

    Returns:
      The content of results.json: `SET/METRIC` → fraction; empty for a run that SIGTERM has stopped, which the same
      call resumes.

    Raises:
      UserError: the configuration cannot work, or the loss is not finite; or, once all else is written, an evaluation
        failed.
    """
    settings = read_settings(config)
    part = evaluated_part(settings)
    folder = as_path(workdir)
    check_reachable(folder, "--workdir=")
    window = parse_window(profile)
    if settings.log.wandb and processes.is_first():
        check_installed()
    with watched_phases() as watch:
        with watch(phases.OPEN):
            run, evaluators = open_run(settings, folder, window)
        with (
            open_checkpointer(settings.checkpoint, folder) as checkpointer,
            only_run(folder),
            Preemption() as preemption,
        ):
            with watch(phases.INITIAL_STATE):
                state, _ = initial_state(run, checkpointer)
                jax.block_until_ready(state)
            start = Moment(int(state.step), run.total_steps, state)
            with MetricsWriter(
                folder,
                first_step=start.step,
                tensorboard=settings.log.tensorboard,
                wandb=settings.log.wandb,
                config=settings.flat,
            ) as writer:
                reporter = make_reporter(run, writer, watch)
                reporter.printer.text(run_summary(run, state, str(folder)))
                del state  # the first step consumes it
                hooks = make_hooks(
                    run,
                    reporter,
                    evaluators=evaluators,
                    checkpointer=checkpointer,
                    preemption=preemption,
                    finite_check=FiniteCheck(folder, last_saved=start.step or None),
                )
                *_, evaluate = hooks
                evaluate.resume(start)
                end = _take_steps(run, start, hooks, reporter, StepProfiler(window, folder))
                if end.leaving:
                    with watch(phases.LAST_CHECKPOINT):
                        checkpointer.wait()
                    reporter.printer.text(stopped_line(end.step, folder))
                    return {}
                weights = getattr(end.state, part)
                with watch(phases.EVALUATE):
                    measured = run_evaluators(evaluators, weights)
                writer.write(end.step, flat_results(measured))
            with watch(phases.LAST_CHECKPOINT):
                checkpointer.wait()
        results = complete_results(measured)
        write_results(folder / RESULTS_FILE, results)
        weights = processes.on_host(weights)
        if processes.is_first():
            if run.settings.pictures.examples:
                from timix_jax.training.pictures import draw_run  # Matplotlib takes a second

                with watch(phases.DRAW):
                    draw_run(run, weights, folder, evaluators)
            print_text(f"\n{format_results(measured)}\nwritten to {folder}")
    failed = [m for m in (*evaluate.failures, *measured) if m.error is not None]
    if failed:
        processes.gather(
            "written", timeout_s=_DRAW_S
        )  # a process that leaves takes the others with it
    raise_failures(failed, f"the training is complete, with all other results, in {folder}")
    return results


def make_reporter(run: Experiment, writer: MetricsWriter, watch: Phases) -> Reporter:
    """Build the clock and the progress lines of a run."""
    chrono = Chrono(
        total_steps=run.total_steps,
        batch_size=run.batch_size,
        devices=run.mesh.size,
        flops=run.training_flops,
        peak_flops=run.peak_flops,
    )
    weights = {o.name: o.weight for o in run.objectives}
    printer = ProgressPrinter(total_steps=run.total_steps, weights=weights)
    return Reporter(writer, printer, chrono, watch)


def make_hooks(
    run: Experiment,
    reporter: Reporter,
    *,
    evaluators: Mapping[str, list[Evaluator]],
    checkpointer: Checkpointer,
    preemption: Preemption,
    finite_check: FiniteCheck,
) -> tuple[*tuple[Hook, ...], Evaluate]:
    """Return what happens after each step, in its order, which ends with `Evaluate`."""
    part = evaluated_part(run.settings)
    return (
        finite_check,
        Log(run.every["log"], reporter, run.mesh.local_devices),
        Leave(preemption),
        # Before the evaluation, which may fail or be killed; `Evaluate.resume` then does it again.
        Save(run, checkpointer, finite_check, reporter),
        Evaluate(run.every["eval"], evaluators, part, finite_check, reporter),
    )


def _take_steps(
    run: Experiment,
    start: Moment,
    hooks: Sequence[Hook],
    reporter: Reporter,
    profiler: StepProfiler,
) -> Moment:
    """Train from `start`; a finished run is returned as it is."""
    if start.is_last:
        return start
    profile = Profile(profiler, reporter)
    with profiler:
        profile(start)  # the window may open with the first step
        return Loop(run, (*hooks, profile), reporter).run(start)
