"""Open a working folder: build the run, and write to the folder only once nothing can be refused any more."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from timix_jax import checkpointing
from timix_jax.checkpointing import step_folders
from timix_jax.config import MUTABLE_FIELDS, canonical, default_config, flatten
from timix_jax.data.tokenizers import Tokenizer
from timix_jax.distributed import processes
from timix_jax.distributed.shared_folder import check_same_config, check_shared
from timix_jax.errors import UserError, error_prefix
from timix_jax.evaluators import Evaluator
from timix_jax.pretrained import INIT_FIELDS, check_init_from
from timix_jax.reporting.profiling import Window, check_window
from timix_jax.runtime import workdir as workdirs
from timix_jax.runtime.atomic_write import atomic_write_text
from timix_jax.training import build as experiment
from timix_jax.training.build import Experiment, Settings

# One process may have to copy its data before it can build its run.
_BUILD_TIMEOUT_S = 24 * 3600


def open_run(
    settings: Settings, folder: epath.Path, window: Window | None = None
) -> tuple[Experiment, dict[str, list[Evaluator]]]:
    """Build the run and its evaluators, then write config.json and tokenizer.json where they are missing.

    Args:
      settings: from `read_settings`.
      folder: the working folder; untouched if anything is wrong, on any process.
      window: the steps to profile, if any.

    Raises:
      UserError: a setting cannot work, or the folder belongs to another run.
    """
    check_same_config(settings.flat)
    check_shared(folder)
    has_started, stored_tokenizer = processes.from_first(
        lambda: _read_folder(folder, settings.flat)
    )
    tokenizer_file = folder / workdirs.TOKENIZER_FILE
    with error_prefix(f"{tokenizer_file}: "):
        tokenizer = Tokenizer.from_json(stored_tokenizer) if stored_tokenizer else None
    run = experiment.build(settings, tokenizer=tokenizer)
    evaluators = experiment.build_evaluators(settings, run.model, run.tokenizer, run.mesh)
    check_window(window, run.total_steps, folder)
    run.train_iterator(0).close()  # raises what the input pipeline has to refuse
    if not has_started:
        _check_init(settings, run)
    # Wait for all processes: an error on another one must leave the folder untouched too.
    processes.gather("built", timeout_s=_BUILD_TIMEOUT_S)
    experiment.check_evaluators(evaluators)
    processes.gather("checked", timeout_s=_BUILD_TIMEOUT_S)
    if processes.is_first():
        _open_workdir(folder, settings.flat)
        if not tokenizer_file.exists() or not tokenizer_file.read_text():
            atomic_write_text(tokenizer_file, run.tokenizer.to_json())
    return run, evaluators


def _check_init(settings: Settings, run: Experiment) -> None:
    for part, path in settings.initial_weights.items():
        with error_prefix(f"config.{INIT_FIELDS[part]}: "):
            check_init_from(
                path,
                run.abstract_state.params,
                tokenizer=run.tokenizer.to_json(),
                config=settings.flat,
                part=part,
                defaults=flatten(default_config()),
            )


def _open_workdir(folder: epath.Path, config: Mapping[str, Any]) -> None:
    # A run of an earlier version lacks fields added since; their defaults are what it did.
    defaults = flatten(default_config())
    workdirs.open_workdir(
        folder, config, ignore=MUTABLE_FIELDS, defaults=defaults, canonical=canonical
    )


def _read_folder(folder: epath.Path, config: Mapping[str, Any]) -> tuple[bool, str]:
    """Return True if a run has started here, and its tokenizer as JSON ("" if it is lost).

    Raises:
      UserError: that run has another configuration.
    """
    if (folder / workdirs.CONFIG_FILE).exists():
        _open_workdir(folder, config)
    elif not _is_resumable(folder, config):
        return False, ""
    file = folder / workdirs.TOKENIZER_FILE
    text = file.read_bytes().decode(errors="replace") if file.exists() else ""
    if not text and (meta := _newest_meta(folder)):
        text = meta["tokenizer"]
    return True, text


def _is_resumable(folder: epath.Path, config: Mapping[str, Any]) -> bool:
    """Return True if a folder without config.json holds a checkpoint, which must be of the same configuration."""
    meta = _newest_meta(folder)
    if meta is None:
        return False
    defaults = flatten(default_config())
    stored = meta["config"]
    if differences := workdirs.config_differences(
        stored, config, MUTABLE_FIELDS, defaults, canonical
    ):
        raise UserError(
            f"the checkpoints in --workdir={folder} belong to a run with another configuration"
            f" ({'; '.join(differences[:5])}): choose another --workdir, or set the fields back"
        )
    return True


def _newest_meta(folder: epath.Path) -> dict[str, Any] | None:
    """Read the metadata of the newest valid checkpoint, whose files are all checked.

    Runs on one process; a Checkpointer would need all of them.
    """
    directory = workdirs.absolute(folder / workdirs.CHECKPOINTS_FOLDER)
    step = step_folders.find_latest(directory).step
    if step is None:
        return None
    return checkpointing.read_meta(step_folders.step_path(directory, step))
