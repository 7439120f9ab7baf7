"""No mixing, random windows and TiMix at equal training time, or over equal examples: retrieval over several seeds.

    python -m benchmarks.compare_mixers --seeds 3 --seconds 120
    python -m benchmarks.compare_mixers --steps 3200 --parallel 4     # equal examples instead of equal time

First short runs of each method tell its pace (compilation and evaluation left out, the ramp and the end of mixing in
their places), `--pace-turns` of each in turn, back and forth, so that what changes on the machine meets all of them.
Then each method trains for as many steps as take `--seconds`, one process a seed. With `--steps` all
train for so many, and `--parallel` of them run at once (set XLA_PYTHON_CLIENT_PREALLOCATE=false where they share a
GPU). PTA is part of TiMix's recipe and reads boxes that the plain rows do not see, so `none + PTA` stands between
them. Stopped, it goes on where it was: finished runs are read, not run.
Other arguments go to timix_jax.main, such as --config.train.batch_size=64.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import program, recipes
from timix_jax.config import flatten
from timix_jax.errors import UserError
from timix_jax.reporting.metrics import RESULTS_FILE
from timix_jax.reporting.plots.comparison import comparison_chart
from timix_jax.runtime.atomic_write import atomic_write_text
from timix_jax.runtime.workdir import CONFIG_FILE, METRICS_FILE, config_differences

METHODS: dict[str, dict[str, Any]] = {
    "none": {"mix.mixer": "none", "loss.pta.weight": 0.0},
    "none + PTA": {"mix.mixer": "none"},
    "random_window": {"mix.mixer": "random_window", "loss.pta.weight": 0.0},
    "timix": {"mix.mixer": "timix"},
}
METRICS = ("i2t_r1", "t2i_r1", "i2t_r10", "t2i_r10", "mean_recall")
# Both still happen at the end, where they take no training time.
AT_THE_END = {"eval.every": "0 steps", "checkpoint.every": "0 steps"}


class Comparison:
    """The runs of a folder: one recipe and one set of further flags."""

    def __init__(self, recipe: str, overrides: Sequence[str], out: Path) -> None:
        """Create the folder, or continue in it.

        Raises:
          UserError: the folder is that of another recipe or other flags.
        """
        self._recipe, self._overrides, self._out = recipe, list(overrides), out
        config = flatten(recipes.load(recipe))
        plan = {**config, "flags": self._overrides}
        path = out / "plan.json"
        if path.exists():
            differences = config_differences(json.loads(path.read_text()), plan)
            if differences:
                raise UserError(
                    f"--out={out} holds a comparison of another configuration "
                    f"({'; '.join(differences[:3])}); choose another folder"
                )
        else:
            out.mkdir(parents=True, exist_ok=True)
            atomic_write_text(path, json.dumps(plan, indent=2) + "\n")

    def train(self, name: str, fields: Mapping[str, Any]) -> Path:
        """Return the folder of a finished run, training it first where results are missing.

        Raises:
          UserError: training failed.
        """
        folder, log = self._out / name, self._out / f"{name}.log"
        if not (folder / RESULTS_FILE).exists():
            print(f"training {folder}", flush=True)
            command = [sys.executable, "-m", "timix_jax.main", f"--config={self._recipe}"]
            command += [f"--workdir={folder}", *self._overrides]
            command += [f"--config.{field}={value}" for field, value in fields.items()]
            with log.open("a") as file:
                done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT)
            if done.returncode:
                last = (log.read_text().splitlines() or ["no output"])[-1]
                raise UserError(f"training in {folder} failed: {last} (all of it in {log})")
        return folder

    def step_seconds(self, methods: Sequence[str], steps: int, turns: int) -> dict[str, float]:
        """Return seconds per step of each method, over alternating short runs."""
        timed: dict[str, list[tuple[int, float]]] = {method: [] for method in methods}
        for turn in range(turns):
            for method in methods if turn % 2 == 0 else reversed(methods):
                fields = METHODS[method] | AT_THE_END | {"eval.sets": "()"}
                fields |= {"train.duration": f"{steps} steps"}
                fields |= {"log.every": f"{max(1, steps // 10)} steps"}
                folder = self.train(f"pace {method} {turn}", fields)
                timed[method].append(training_seconds(folder))
        return {
            method: sum(seconds for _, seconds in runs) / sum(count for count, _ in runs)
            for method, runs in timed.items()
        }

    def results(self, method: str, steps: int, seed: int, eval_set: str) -> dict[str, float]:
        """Return `METRICS` of one run on `eval_set` ("" = the first), and its training seconds."""
        fields = METHODS[method] | AT_THE_END
        fields |= {"train.duration": f"{steps} steps", "seed": seed}
        folder = self.train(f"{method} {steps} steps seed {seed}", fields)
        found = json.loads((folder / RESULTS_FILE).read_text())
        name = eval_set or next(iter(found), "").split("/")[0]
        missing = [metric for metric in METRICS if f"{name}/{metric}" not in found]
        if missing:
            raise UserError(f"{folder / RESULTS_FILE} has no {name}/{missing[0]}: see --set")
        count, seconds = training_seconds(folder)
        # The first step compiles and is not timed; it trains like the others.
        return {m: found[f"{name}/{m}"] for m in METRICS} | {"seconds": seconds / count * steps}


def training_seconds(folder: Path) -> tuple[int, float]:
    """Return (steps, seconds) of the training after its first step, from the rates in `metrics.jsonl`.

    Raises:
      UserError: nothing was timed.
    """
    batch_size = json.loads((folder / CONFIG_FILE).read_text())["train.batch_size"]
    first = last = 1
    seconds = 0.0
    for line in (folder / METRICS_FILE).read_text().splitlines():
        logged = json.loads(line)
        if "images_per_s" in logged:
            seconds += (logged["step"] - last) * batch_size / logged["images_per_s"]
            last = logged["step"]
    if last == first:
        raise UserError(f"{folder / METRICS_FILE} has no images_per_s: train for more steps")
    return last - first, seconds


def table(methods: Mapping[str, Mapping[str, Any]]) -> str:
    """Return one row per method in Markdown: mean ± standard deviation over the seeds, in percent."""
    lines = [
        f"| method | steps | training, s | {' | '.join(METRICS)} |",
        "|---|" + "---|" * (2 + len(METRICS)),
    ]
    for name, row in methods.items():
        cells = [_mean_and_spread([100 * value for value in row[metric]]) for metric in METRICS]
        seconds = _mean_and_spread(row["seconds"])
        lines.append(f"| {name} | {row['steps']} | {seconds} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean_and_spread(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{spread}"


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, print the table, and write comparison.json and comparison.png."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--config", default="configs/demo_boxes.py")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=120, help="training time per run")
    parser.add_argument("--steps", type=int, default=0, help="per run, instead of --seconds")
    parser.add_argument("--parallel", type=int, default=1, help="concurrent runs, with --steps")
    parser.add_argument(
        "--pace-steps", type=int, default=100, help="length of a run that measures speed"
    )
    parser.add_argument("--pace-turns", type=int, default=2, help="number of such runs per method")
    parser.add_argument("--set", default="", help="evaluation set; default: the recipe's first")
    parser.add_argument("--out", type=Path, default=Path("runs/comparison"))
    args, overrides = parser.parse_known_args(argv)
    if args.parallel > 1 and not args.steps:
        parser.error("--parallel: runs that share the machine cannot be timed; give --steps")

    comparison = Comparison(args.config, overrides, args.out)
    methods: dict[str, dict[str, Any]] = {}
    if args.steps:
        methods = {method: {"steps": args.steps} for method in args.methods}
    else:
        pace = comparison.step_seconds(args.methods, args.pace_steps, args.pace_turns)
        for method, seconds in pace.items():
            steps = max(2, round(args.seconds / seconds))
            methods[method] = {"steps": steps, "pace_step_seconds": seconds}
            print(
                f"{method}: {1e3 * seconds:.0f} ms per step, {steps} in {args.seconds:g} s",
                flush=True,
            )
    # Seed by seed, so that changes on the machine affect all methods.
    with ThreadPoolExecutor(args.parallel) as pool:
        runs = {
            (method, seed): pool.submit(comparison.results, method, row["steps"], seed, args.set)
            for seed in range(args.seeds)
            for method, row in methods.items()
        }
        try:
            done = {run: future.result() for run, future in runs.items()}
        except UserError:
            pool.shutdown(cancel_futures=True)
            raise
    for method, row in methods.items():
        for name in (*METRICS, "seconds"):
            row[name] = [done[method, seed][name] for seed in range(args.seeds)]
    equal = f"{args.steps:,} steps" if args.steps else f"{args.seconds:g} s"
    atomic_write_text(
        args.out / "comparison.json",
        json.dumps({"equal": equal, "methods": methods}, indent=2) + "\n",
    )
    chart = {name: {metric: row[metric] for metric in METRICS} for name, row in methods.items()}
    seeds = f"{args.seeds} seed{'s' if args.seeds > 1 else ''}"
    title = f"{Path(args.config).stem}: {equal} of training each, {seeds}"
    comparison_chart(args.out / "comparison.png", chart, title)
    print(f"\n{table(methods)}\n\nwritten to {args.out}", flush=True)


if __name__ == "__main__":
    program.run(main)
