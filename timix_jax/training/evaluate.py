"""Evaluate weights on every evaluation set, during training and from a checkpoint (`--mode=eval`)."""

import collections
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from timix_jax import checkpointing
from timix_jax.data.records.schema import CorruptExample
from timix_jax.data.tokenizers import Tokenizer
from timix_jax.distributed import processes
from timix_jax.distributed.shared_folder import check_same_config, check_shared
from timix_jax.errors import RunError, UserError, error_prefix
from timix_jax.evaluators import Evaluator, evaluator_name
from timix_jax.parallel.sharding import with_shardings
from timix_jax.pretrained.compatibility import check_same_model
from timix_jax.reporting import phases
from timix_jax.reporting.metrics import write_results
from timix_jax.reporting.phases import Phases
from timix_jax.reporting.watchdog import watched_phases
from timix_jax.runtime.log import print_text
from timix_jax.runtime.remote import as_path, check_reachable
from timix_jax.runtime.workdir import absolute
from timix_jax.training import build as experiment
from timix_jax.training.build import Settings, evaluated_part, read_settings


class Measured(NamedTuple):
    """The result of one evaluator on one evaluation set.

    Attributes:
      name: of the set.
      metrics: metric → fraction; `EVALUATOR_failed` → 1 if it could not be measured.
      text: a line that shows them.
      error: why it could not be measured; None if it could.
    """

    name: str
    metrics: Mapping[str, float]
    text: str
    error: UserError | None = None


def run_evaluators(evaluators: Mapping[str, list[Evaluator]], params: Any) -> list[Measured]:
    """Run all evaluators of all sets, in order; call it from all processes.

    An evaluator whose data, files or memory fail is logged and counted, and the others still run: hours of training
    must not end with it. What counts as such: UserError, CorruptExample, OSError, and running out of memory on the
    host or a device. Any other exception is a bug and propagates.
    """
    return [
        _measure(name, evaluator, params)
        for name, several in evaluators.items()
        for evaluator in several
    ]


def _measure(name: str, evaluator: Evaluator, params: Any) -> Measured:
    kind = evaluator_name(evaluator)
    error: UserError | None = None
    metrics: Mapping[str, float] = {}
    try:
        metrics = evaluator.run(params)
    except (UserError, CorruptExample, OSError, MemoryError, jax.errors.JaxRuntimeError) as cause:
        if isinstance(cause, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(cause):
            raise
        error = _as_user_error(cause)
        logging.warning("evaluation set %s: %s cannot be measured: %s", name, kind, error)
    failed = processes.gather_flags(error is not None)
    if any(failed) and not all(failed):
        raise RunError(
            f"evaluation set {name}: process {failed.index(True)} cannot evaluate it, others can: its log names the"
            " cause"
        )
    if error is None:
        return Measured(name, metrics, evaluator.text(metrics))
    return Measured(name, {f"{kind}_failed": 1.0}, f"{kind} failed: {error}", error)


def _as_user_error(error: Exception) -> UserError:
    if isinstance(error, UserError):
        return error
    cause = " ".join(str(error).split())[:300]
    if isinstance(error, CorruptExample):
        return UserError(cause)
    return RunError(f"{type(error).__name__}: {cause}")


def flat_results(measured: Iterable[Measured]) -> dict[str, float]:
    """Flatten the results of all sets to `{"heldout_vendor/i2t_r1": 0.12, ...}`."""
    return {f"{m.name}/{key}": value for m in measured for key, value in m.metrics.items()}


def complete_results(measured: Iterable[Measured]) -> dict[str, float]:
    """Flatten the results like `flat_results`, without the evaluators that failed."""
    return flat_results(m for m in measured if m.error is None)


def raise_failures(measured: Iterable[Measured], rest: str) -> None:
    """Raise an error that names and counts the evaluators that failed, if any did.

    Args:
      measured: of any number of evaluations.
      rest: what is complete all the same, and what to do.

    Raises:
      RunError: a machine or a file failed, so that a retry may succeed.
      UserError: the data cannot be evaluated.
    """
    errors = [(f"{m.name}: {m.text}", m.error) for m in measured if m.error is not None]
    if not errors:
        return
    said = "; ".join(
        text if count == 1 else f"{text} ({count} times)"
        for text, count in collections.Counter(text for text, _ in errors).items()
    )
    retry = any(isinstance(error, RunError) for _, error in errors)
    raise (RunError if retry else UserError)(f"{said}; {rest}")


def evaluate_checkpoint(config: ConfigDict, workdir: str) -> dict[str, float]:
    """Evaluate the newest checkpoint in `workdir` (or a step folder) on `config.eval.sets`.

    Prints the results and writes them to `WORKDIR/eval-STEP.json`, where the results of other sets stay.

    Raises:
      UserError: an evaluator failed; the results of the others are written.
    """
    settings = read_settings(config)
    part = evaluated_part(settings)
    check_reachable(as_path(workdir), "--workdir=")
    check_same_config(settings.flat)
    check_shared(as_path(workdir))
    with watched_phases() as watch:
        path, measured = _evaluate(settings, workdir, part, watch)
    results = complete_results(measured)
    # A step folder lies in WORKDIR/checkpoints.
    folder = path.parent.parent if absolute(workdir) == path else as_path(workdir)
    target = folder / f"eval-{int(path.name)}.json"
    if processes.is_first():
        print_text(format_results(measured))  # first, in case the file cannot be written
        if results:
            write_results(target, _of_other_sets(target, evaluated=results) | results)
            print_text(f"written to {target}")
    if any(m.error for m in measured):
        processes.gather("written")  # a process that leaves takes the others with it
    raise_failures(measured, f"all other results are in {target}" if results else "no other result")
    return results


def _read_tokenizer(found: epath.Path) -> Tokenizer:
    with error_prefix(f"checkpoint {found}: "):
        return Tokenizer.from_json(checkpointing.read_meta(found)["tokenizer"])


def _evaluate(
    settings: Settings, workdir: str, part: str, watch: Phases
) -> tuple[epath.Path, list[Measured]]:
    """Return the checkpoint that was evaluated, and the results."""
    with watch(phases.OPEN):
        # All checkpoints of a run have the same.
        tokenizer = checkpointing.read_newest(workdir, _read_tokenizer)
        layout = experiment.build_layout(settings.mesh)
        model = experiment.build_model(
            settings,
            vocab_size=tokenizer.vocab_size,
            pad_id=tokenizer.pad_id,
            eot_id=tokenizer.sep_id,
            layout=layout,
        )
        layout = layout.with_axes(model.parameter_axes())
        evaluators = experiment.build_evaluators(settings, model, tokenizer, layout.mesh)
    if not evaluators:
        raise UserError(
            "config.eval.sets=() names no data; give --config.eval.sets=\"('NAME=SOURCE',)\""
        )
    with watch(phases.INITIAL_STATE) as phase:
        abstract = jax.eval_shape(model.init, jax.random.key(0))
        with error_prefix("config.mesh: "):
            shardings = layout.shardings(abstract)
        abstract = with_shardings(abstract, shardings)

        def restore(found: epath.Path) -> tuple[epath.Path, Any]:
            params = checkpointing.restore_params(found, abstract, part=part)
            check_same_model(found, settings.flat, to_train=False)
            return found, params

        path, params = checkpointing.read_newest(workdir, restore)
        phase.detail = f"{part} of {path}"
    with watch(phases.EVALUATE):
        return path, run_evaluators(evaluators, params)


def _of_other_sets(path: epath.Path, *, evaluated: Mapping[str, float]) -> dict[str, float]:
    """Read the results in `path` of sets that were not evaluated now."""
    try:
        stored = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): move it away") from None
    sets = {name.partition("/")[0] for name in evaluated}
    return {
        name: float("nan") if value is None else value
        for name, value in stored.items()
        if name.partition("/")[0] not in sets
    }


def format_results(measured: Iterable[Measured]) -> str:
    """Format the results as a table with one line per evaluator."""
    lines, previous = [], None
    for m in measured:
        lines.append(f"{m.name if m.name != previous else '':<18}  {m.text}")
        previous = m.name
    return "\n".join(lines)
