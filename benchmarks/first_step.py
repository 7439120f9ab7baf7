"""Time from starting `python -m timix_jax.main` to its first finished step, cold and warm.

    python -m benchmarks.first_step

Cold = no compiled programs; warm = those that the cold run left. The data are built beforehand, and
each run is stopped after its first step. Phases end where the program says so.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from benchmarks import program, recipes
from timix_jax.data.sources import open_source
from timix_jax.errors import UserError
from timix_jax.reporting import phases

# A line that main prints → the phase that ends with it.
PHASES = {
    f"{phases.OPEN.name}:": "imports, data, tokenizer",
    f"{phases.INITIAL_STATE.name}:": "initial state",
    f"{phases.FIRST_BATCH.name}:": "training loop built, first batch",
    f"{phases.FIRST_STEP.name}:": "compilation, first step",
}
TARGETS = {"cold": 60.0, "warm": 20.0}
PASSED_LINES = 20


def prepare(config: ConfigDict) -> None:
    """Build missing data sets of the recipe."""
    for spec in (*config.data.train, *(entry.partition("=")[2] for entry in config.eval.sets)):
        open_source(spec)


def phase_seconds(command: Sequence[str]) -> dict[str, float]:
    """Return phase → seconds from the start of `command` to its end, then stop the process.

    Raises:
      UserError: the command ended before its first step; the message has its last lines.
    """
    start = time.perf_counter()
    ends: dict[str, float] = {}
    lines: list[str] = []
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                lines = [*lines[1 - PASSED_LINES :], line]
                for mark, phase in PHASES.items():
                    if mark in line:
                        ends.setdefault(phase, time.perf_counter() - start)
                if len(ends) == len(PHASES):
                    return ends
        finally:
            process.kill()
    raise UserError(f"{' '.join(command)} ended before its first step:\n{''.join(lines)}")


def table(runs: dict[str, dict[str, float]]) -> str:
    """Return one row per phase and one column per run, in seconds, and the totals with their targets."""
    lines = [f"| phase | {' | '.join(f'{run}, s' for run in runs)} |", "|---|" + "---|" * len(runs)]
    previous = dict.fromkeys(runs, 0.0)
    for phase in PHASES.values():
        own = {run: ends[phase] - previous[run] for run, ends in runs.items()}
        previous = {run: ends[phase] for run, ends in runs.items()}
        lines.append(f"| {phase} | {' | '.join(f'{value:.1f}' for value in own.values())} |")
    totals = (f"{previous[run]:.1f} (target < {TARGETS[run]:.0f})" for run in runs)
    return "\n".join([*lines, f"| to the first step | {' | '.join(totals)} |"])


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0] if __doc__ else None,
        epilog="Other arguments go to timix_jax.main, such as --config.train.batch_size=64.",
    )
    parser.add_argument("--config", default="configs/demo.py")
    args, overrides = parser.parse_known_args(argv)
    prepare(recipes.load(args.config))
    with tempfile.TemporaryDirectory() as temporary:
        runs = {}
        for run in TARGETS:
            command = [
                sys.executable,
                "-m",
                "timix_jax.main",
                f"--config={args.config}",
                *overrides,
            ]
            command += [
                f"--workdir={Path(temporary) / run}",
                f"--compile_cache={Path(temporary) / 'xla'}",
            ]
            runs[run] = phase_seconds(command)
    print(table(runs), flush=True)


if __name__ == "__main__":
    program.run(main)
