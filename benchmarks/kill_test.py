"""Repeated kill -9 at random moments, each followed by a resume: does the run end as if nothing had happened?

    python -m benchmarks.kill_test --kills=20 --processes=2 --seed=0

Kills fall into the start, into the steps and into the saves, in a random order; with several processes all of them or
one at random, and the others must then end by themselves. A run that reaches its end is compared, bit for bit, with
one that was never disturbed, and started again until all kills are done. Exits with 1 at the first difference.
The tests' small model and helpers are used, so run it from the repository.
"""

import argparse
import dataclasses
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax

from benchmarks import program

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from process_runs import SMALL, Run, logged_lines
from tiny_run import assert_same_run, write_config

_PARTS = ("params", "opt_state")
_HEARTBEAT_S = 10
_READ_MS = 20  # per example: the steps are slow enough to be hit
_MOMENTS = ("start", "steps", "save")


@dataclasses.dataclass
class KillTest:
    """A folder of runs that are killed.

    Attributes:
      folder: for everything.
      processes: of each run.
      devices: of each process.
      steps: of a whole run.
      seed: of victims and moments.
    """

    folder: Path
    processes: int
    devices: int
    steps: int
    seed: int

    def __post_init__(self) -> None:
        options = SMALL | {
            "data__train": ("slow:?examples=48&size=16&captions=2",),
            "eval__every": "1000 steps",
            "mix__until": "60%",  # the step's program changes midway
        }
        self._recipe = write_config(self.folder / "recipe.py", steps=self.steps, **options)
        self._recipe.write_text("import slow_source\n" + self._recipe.read_text())
        self._whole = self.folder / "whole"
        self._random = random.Random(self.seed)
        self._begun = 0

    def run(self, kills: int) -> None:
        """Run the test; raise an AssertionError at the first difference or hang."""
        begin = time.monotonic()
        _succeed(self._start(self._whole, read_ms=0))
        start_s = time.monotonic() - begin
        print(f"an undisturbed run of {self.steps} steps: {start_s:.0f} s", flush=True)
        print(
            f"{'kill':>4}  {'moment':<6}  {'victims':<8}  {'log lines':>9}  exit codes", flush=True
        )
        done, workdir = 0, self._fresh()
        while done < kills:
            moment = self._random.choice(_MOMENTS)
            one = self.processes > 1 and self._random.random() < 0.5
            victims = [self._random.randrange(self.processes)] if one else range(self.processes)
            run = self._start(workdir, read_ms=_READ_MS)
            self._wait_for_moment(moment, run, workdir, start_s)
            killed = [v for v in victims if run.processes[v].poll() is None]
            for victim in killed:
                run.processes[victim].kill()
            ended = run.wait()
            killed = [v for v in killed if ended[v].code]  # it may have finished just before
            if killed:
                done += 1
                who = "all" if len(killed) == self.processes else f"{killed[0]}"
                codes = " ".join(str(one.code) for one in ended)
                print(
                    f"{done:4}  {moment:<6}  {who:<8}  {logged_lines(workdir):9}  {codes}",
                    flush=True,
                )
                for victim in killed:
                    assert ended[victim].code == -signal.SIGKILL, ended
            if (workdir / "results.json").exists():
                self._compare(workdir)
                workdir = self._fresh()
        _succeed(self._start(workdir, read_ms=0))
        self._compare(workdir)
        print(
            f"{done} kills, {self._begun} runs to their ends: all equal to the undisturbed one, bit for bit"
        )

    def _fresh(self) -> Path:
        self._begun += 1
        return self.folder / f"killed{self._begun}"

    def _start(self, workdir: Path, read_ms: int) -> Run:
        return Run(
            self._recipe,
            workdir,
            processes=self.processes,
            devices=self.devices,
            flags=[f"--heartbeat_timeout={_HEARTBEAT_S}"],
            environment={"READ_MS": str(read_ms)},
        )

    def _wait_for_moment(self, moment: str, run: Run, workdir: Path, start_s: float) -> None:
        before = logged_lines(workdir)
        saving = lambda: any(workdir.glob("checkpoints/*tmp*"))
        stepped = lambda: logged_lines(workdir) > before
        if moment == "start":
            _wait(run, lambda: False, self._random.uniform(0, start_s))
        elif moment == "steps":
            _wait(run, stepped, 600)
            _wait(run, lambda: False, self._random.uniform(0, 1))
        else:
            _wait(run, lambda: stepped() and saving(), 600)
            _wait(run, lambda: False, self._random.uniform(0, 0.2))

    def _compare(self, workdir: Path) -> None:
        assert_same_run(workdir, self._whole, self.steps, parts=_PARTS)


def _wait(run: Run, condition: Callable[[], bool], seconds: float) -> None:
    """Wait until the condition holds, a process has ended, or the time is up."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not condition():
        if any(process.poll() is not None for process in run.processes):
            return
        time.sleep(0.002)


def _succeed(run: Run) -> None:
    ended = run.wait()
    assert not any(one.code for one in ended), ended


def main() -> None:
    """Run the test from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--devices", type=int, default=2, help="per process")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")  # this process only compares
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "runs"
        place.mkdir()
        KillTest(
            place, arguments.processes, arguments.devices, arguments.steps, arguments.seed
        ).run(arguments.kills)


if __name__ == "__main__":
    program.run(main)
