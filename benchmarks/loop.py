"""Overhead of the program around the training step: the loop, and a save in the background.

    python -m benchmarks.loop                              # configs/demo.py
    python -m benchmarks.loop --size S16 --batch 8         # both towers of size S at 224 px
    python -m benchmarks.loop --parts save --steps 20

loop: `training.loop.Loop` with its pipeline, log and watchdog next to the same compiled step on a batch that
stays on the device; in turn, within one run. On a CPU the pipeline takes what it needs from the step:
the second row is the loop without, with a batch from memory.
save: steps while a checkpoint is written, compared with those before and after it.
"""

import argparse
import contextlib
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from ml_collections import ConfigDict

from benchmarks import program, recipes
from timix_jax.checkpointing import Checkpointer
from timix_jax.distributed.preemption import Preemption
from timix_jax.parallel.mesh import put_batch
from timix_jax.reporting.metrics import MetricsWriter
from timix_jax.reporting.watchdog import watched_phases
from timix_jax.training import build as experiment
from timix_jax.training.build import Experiment
from timix_jax.training.hooks import Moment
from timix_jax.training.hooks.finite_check import FiniteCheck
from timix_jax.training.loop import Loop
from timix_jax.training.start import initial_state
from timix_jax.training.state import TrainState
from timix_jax.training.train import make_hooks, make_reporter

WARM_UP_STEPS = 4
LOOP_TARGET, SAVE_TARGET = 1.03, 1.10
STEP = Callable[[TrainState, Any], tuple[TrainState, Any]]


class FromMemory:
    """A stand-in for the training iterator that always yields the same batch."""

    skipped = 0

    def __init__(self, batch: Mapping[str, Any]) -> None:
        self._batch = batch

    def __next__(self) -> dict[str, Any]:
        return dict(self._batch)

    def close(self) -> None:
        """Do nothing."""


@dataclasses.dataclass(frozen=True)
class InMemory(Experiment):
    """An experiment whose pipeline costs nothing."""

    def train_iterator(self, start_step: int) -> Any:
        """Return an iterator that repeats batch 0."""
        return FromMemory(self.first_batch())


class Always:
    """A stand-in for the loop's programs: one program for all steps."""

    def __init__(self, program: STEP) -> None:
        self._program = program

    def at(self, step: int) -> tuple[STEP, bool]:
        """Return the program; it is new at the first step only."""
        return self._program, step == 0

    def ended(self, step: int) -> list[str]:
        """Return no names: nothing ends."""
        del step
        return []


class Alternating:
    """A step between the loop and its compiled step: after every `steps` calls it runs that many steps by itself.

    Attributes:
      bare: seconds of each block of its own steps.
      loop: seconds of each block of the loop's, from step to step; `loop[i]` lies between `bare[i]`
        and `bare[i + 1]`.
    """

    def __init__(self, step: STEP, state: TrainState, batch: Any, steps: int) -> None:
        self._step, self._state, self._batch, self._steps = step, state, batch, steps
        self._calls = 0
        self._began = 0.0
        self.bare: list[float] = []
        self.loop: list[float] = []

    def __call__(self, state: TrainState, batch: Any) -> tuple[TrainState, Any]:
        """Run one step of the loop."""
        if self._calls >= WARM_UP_STEPS and (self._calls - WARM_UP_STEPS) % self._steps == 0:
            jax.block_until_ready(state)
            if self._began:
                self.loop.append(time.perf_counter() - self._began)
            self.bare.append(self._bare_seconds())
            self._began = time.perf_counter()
        self._calls += 1
        return self._step(state, batch)

    def _bare_seconds(self) -> float:
        start, metrics = time.perf_counter(), None
        for _ in range(self._steps):
            self._state, metrics = self._step(self._state, self._batch)
        jax.block_until_ready((self._state, metrics))
        return time.perf_counter() - start


class Bench:
    """An experiment with its compiled step and initial state, shared by all measurements."""

    def __init__(self, config: ConfigDict, total_steps: int, folder: Path) -> None:
        """Build a run that neither evaluates nor saves before its last step."""
        config = ConfigDict(config)
        config.train.duration = f"{total_steps} steps"
        config.eval.every = config.checkpoint.every = "0 steps"
        self.run = experiment.build(experiment.read_settings(config))
        self._folder = folder
        with Checkpointer(folder / "none") as checkpointer:
            self._state, _ = initial_state(self.run, checkpointer)
        batch = self.run.first_batch()
        batch.pop("example_id")
        self.batch = put_batch(batch, self.run.mesh)
        with self.loop("none", self.run) as loop:
            self.step: STEP = loop.programs.at(0)[0]

    def state(self) -> TrainState:
        """Return the initial state, to be donated."""
        return jax.tree.map(jnp.copy, self._state)

    @contextlib.contextmanager
    def loop(self, name: str, run: Experiment) -> Iterator[Loop]:
        """Build the loop as training does, in a folder of its own."""
        folder = epath.Path(self._folder / name)
        with (
            watched_phases() as watch,
            Checkpointer(folder / "checkpoints") as checkpointer,
            MetricsWriter(folder, first_step=0) as writer,
        ):
            reporter = make_reporter(run, writer, watch)
            hooks = make_hooks(
                run,
                reporter,
                evaluators={},
                checkpointer=checkpointer,
                preemption=Preemption(),
                finite_check=FiniteCheck(folder, last_saved=None),
            )
            yield Loop(run, hooks, reporter)


def loop_seconds(bench: Bench, *, in_memory: bool, steps: int) -> Alternating:
    """Alternate between the loop and the bare step, `steps` steps each, until the last step."""
    run = bench.run
    if in_memory:
        fields = {field.name: getattr(run, field.name) for field in dataclasses.fields(run)}
        run = InMemory(**fields)
    turns = Alternating(bench.step, bench.state(), bench.batch, steps)
    with bench.loop(f"loop-{in_memory}", run) as loop:
        # The same compiled program on both sides, hence between the loop and its own.
        vars(loop)["programs"] = Always(turns)
        loop.run(Moment(0, run.total_steps, bench.state()))
    return turns


def loop_ratio(turns: Alternating) -> float:
    """Return the median over the loop's blocks of its time / the mean of its two neighbours."""
    neighbours = zip(turns.bare, turns.bare[1:], strict=False)
    return statistics.median(
        block / statistics.mean(pair) for block, pair in zip(turns.loop, neighbours, strict=True)
    )


@dataclasses.dataclass(frozen=True)
class Save:
    """One save: seconds until the loop continued, and seconds per step during the save and outside it."""

    call: float
    during: float
    beside: float
    steps: int


def save_seconds(bench: Bench, *, steps: int, repeats: int, folder: Path) -> list[Save]:
    """Measure each save with `steps` steps before and after it."""
    state, batch = bench.state(), bench.batch
    with Checkpointer(folder / "save") as checkpointer:

        def train(state: TrainState) -> tuple[TrainState, float]:
            start = time.perf_counter()
            state, metrics = bench.step(state, batch)
            jax.block_until_ready((state, metrics))
            return state, time.perf_counter() - start

        def several(state: TrainState) -> tuple[TrainState, list[float]]:
            times = []
            for _ in range(steps):
                state, seconds = train(state)
                times.append(seconds)
            return state, times

        for _ in range(WARM_UP_STEPS):
            state, _ = train(state)
        saves = []
        state, before = several(state)
        for number in range(repeats):
            start = time.perf_counter()
            checkpointer.save(number + 1, state, {})
            call = time.perf_counter() - start
            during: list[float] = []
            while checkpointer.saving or not during:
                state, seconds = train(state)
                during.append(seconds)
            state, after = several(state)
            beside = statistics.mean([*before, *after])
            saves.append(Save(call, statistics.mean(during), beside, len(during)))
            before = after
    return saves


def print_loop(bench: Bench, args: argparse.Namespace) -> None:
    """Print the table of the loop's overhead."""
    lines = ["| loop | bare step, ms | in the loop, ms | ratio | target |", "|---|---|---|---|---|"]
    for name, in_memory in (("with its pipeline", False), ("batches from memory", True)):
        turns = loop_seconds(bench, in_memory=in_memory, steps=args.steps)
        bare, loop = (1e3 * statistics.median(t) / args.steps for t in (turns.bare, turns.loop))
        lines.append(
            f"| {name} | {bare:.2f} | {loop:.2f} | {loop_ratio(turns):.3f} | ≤ {LOOP_TARGET:.2f} |"
        )
    print("\n".join(["", *lines, ""]), flush=True)  # after the loop's own output


def print_save(bench: Bench, args: argparse.Namespace, folder: Path) -> None:
    """Print the table of steps during a save."""
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(bench.state()))
    saves = save_seconds(bench, steps=args.steps, repeats=args.repeats, folder=folder)
    median = lambda value: statistics.median(value(save) for save in saves)
    print(
        "| state, MB | save call, ms | steps during | step beside, ms | during, ms | ratio | target |\n"
        "|---|---|---|---|---|---|---|\n"
        f"| {size / 1e6:.3g} | {1e3 * median(lambda s: s.call):.1f} | {median(lambda s: s.steps):.0f} "
        f"| {1e3 * median(lambda s: s.beside):.2f} | {1e3 * median(lambda s: s.during):.2f} "
        f"| {median(lambda s: s.during / s.beside):.3f} | ≤ {SAVE_TARGET:.2f} |",
        flush=True,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--parts", nargs="+", choices=["loop", "save"], default=["loop", "save"])
    parser.add_argument("--steps", type=int, default=30, help="steps per measurement")
    parser.add_argument("--repeats", type=int, default=5)
    config, args = recipes.parse(parser, argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bench = Bench(config, WARM_UP_STEPS + args.steps * args.repeats + 1, folder)
        if "loop" in args.parts:
            print_loop(bench, args)
        if "save" in args.parts:
            print_save(bench, args, folder)


if __name__ == "__main__":
    program.run(main)
