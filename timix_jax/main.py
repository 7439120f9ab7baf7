"""Command line: `python -m timix_jax.main --config=FILE [--workdir=DIR] [--mode=train|eval|info|compile]`."""

from timix_jax.runtime import interrupt, large_pages

if __name__ == "__main__":
    large_pages.start_on_large_pages()
    interrupt.end_at_ctrl_c()  # before the imports, which take seconds

import importlib
import sys
from pathlib import Path
from typing import Any

import jax
from absl import app, flags
from ml_collections import config_flags

from timix_jax.config import complete
from timix_jax.config.command_line import (
    check_given_once,
    check_is_recipe,
    example_recipe,
    flag_error,
    recipe_path,
    with_home_folder,
)
from timix_jax.distributed import cluster, failure_watch, processes
from timix_jax.distributed.preemption import end_at_sigterm
from timix_jax.distributed.shared_folder import check_same_start
from timix_jax.errors import UserError
from timix_jax.reporting.phases import CONNECT
from timix_jax.reporting.watchdog import watched_phases
from timix_jax.runtime.compile_cache import use_cache
from timix_jax.runtime.devices import check_backend
from timix_jax.runtime.log import (
    only_warnings,
    print_error,
    show_own_lines,
    without_library_warnings,
)

# Mode → "module:function" of a function of (config, workdir).
MODES = {
    "train": "timix_jax.training.train:train_and_evaluate",
    "eval": "timix_jax.training.evaluate:evaluate_checkpoint",
    "info": "timix_jax.inspection.info:print_info",
    "compile": "timix_jax.inspection.compile:compile_for",
}

# Flags that only one mode accepts, as arguments of its function.
MODE_FLAGS = {"profile": "train", "topology": "compile", "step_time": "compile"}

FLAGS = flags.FLAGS
_CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe, such as configs/demo.py.")
_WORKDIR = flags.DEFINE_string(
    "workdir", "", "Checkpoints, metrics and pictures; default runs/<config name>."
)
_MODE = flags.DEFINE_enum("mode", "train", sorted(MODES), "What to do.")
_CACHE = flags.DEFINE_string(
    "compile_cache",
    "~/.cache/timix_jax/xla",
    "Folder of compiled programs, which later runs reuse; empty for none.",
)
_DISTRIBUTED = flags.DEFINE_enum(
    "distributed",
    "auto",
    cluster.MODES,
    "auto: join the cluster (Cloud TPU, Slurm, …) if there is one; on: its absence is an error; off: one process.",
)
flags.DEFINE_string(
    "profile", "", "START:STOP: write a profiler trace of these steps to WORKDIR/profile."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "HOST:PORT of process 0, if the cluster does not provide it."
)
_PROCESSES = flags.DEFINE_integer("processes", 0, "Number of processes, with --coordinator.")
_PROCESS = flags.DEFINE_integer("process", 0, "Index of this process, with --coordinator.")
flags.DEFINE_string("topology", "", "TPU slice for --mode=compile, such as v5e:16x16.")
flags.DEFINE_float(
    "step_time", 0.0, "Seconds per step: --mode=compile prints the utilisation they imply."
)
_CONNECT_TIMEOUT = flags.DEFINE_integer(
    "connect_timeout", 60, "Seconds to wait at the start for the other processes.", 1
)
_HEARTBEAT_TIMEOUT = flags.DEFINE_integer(
    "heartbeat_timeout", 60, "Seconds after which a silent process counts as dead.", 2
)


def default_workdir(config_path: str) -> str:
    """Return `runs/demo` for `configs/demo.py` (and `configs/demo.py:arg`)."""
    return str(Path("runs") / Path(config_path.split(":")[0]).stem)


def _main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; flags start with --")
    if _CONFIG.value is None:
        raise UserError(f"--config is missing; try --config={example_recipe()}")
    show_own_lines()
    # --mode=compile targets a slice elsewhere: it takes no chip and joins no cluster.
    here = _MODE.value != "compile"
    distributed = _DISTRIBUTED.value if here else "off"
    if _MODE.value == "info" and distributed == "auto" and cluster.in_slurm_job():
        distributed = "off"  # often asked in an interactive step, where no other process comes
    if not here:
        jax.config.update("jax_platforms", "cpu")
    with watched_phases() as watch, watch(CONNECT) as phase:
        cluster.join(
            distributed,
            coordinator=_COORDINATOR.value,
            processes=_PROCESSES.value,
            process=_PROCESS.value,
            connect_timeout_s=_CONNECT_TIMEOUT.value,
            heartbeat_timeout_s=_HEARTBEAT_TIMEOUT.value,
        )
        phase.quiet = not jax.distributed.is_initialized()
    check_backend()
    if not processes.is_first():
        only_warnings()
    if _CACHE.value and here:
        use_cache(_CACHE.value)
    if _MODE.value != "train":
        end_at_sigterm()
    config_path = config_flags.get_config_filename(FLAGS["config"])
    module, function = MODES[_MODE.value].split(":")
    mode = getattr(importlib.import_module(module), function)
    options = _mode_options()
    with failure_watch.shared_fate():
        check_same_start(_MODE.value, _PROCESSES.value)
        mode(_CONFIG.value, _WORKDIR.value or default_workdir(config_path), **options)


def _mode_options() -> dict[str, Any]:
    given = {name: FLAGS[name].value for name in MODE_FLAGS if FLAGS[name].value}
    for name, value in given.items():
        if MODE_FLAGS[name] != _MODE.value:
            raise UserError(
                f"--{name}={value} goes with --mode={MODE_FLAGS[name]}, not {_MODE.value}"
            )
    return given


def _parse_flags(argv: list[str]) -> list[str]:
    try:
        argv = with_home_folder(argv)
        check_given_once(argv)
        with without_library_warnings():
            rest = FLAGS(argv)
        recipe = _CONFIG.value
        hasattr(recipe, "items")  # a recipe that could not be opened raises its error on first use
        if recipe_path(argv):
            check_is_recipe(recipe, argv)
            complete(recipe)
    except UserError:
        raise
    except Exception as error:
        # A recipe is the user's own code: whatever it raises is reported as its line and the reason.
        raise flag_error(error, argv) from error
    return rest


def run() -> None:
    """Run the command line; a user error prints one line and exits with 2, a runtime error with 1."""
    try:
        app.run(_main, flags_parser=_parse_flags)
    except UserError as error:
        print_error(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print_error(interrupt.LINE)
        sys.exit(interrupt.EXIT_CODE)


if __name__ == "__main__":
    run()
