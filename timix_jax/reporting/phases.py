"""The phases of a run: each logs its duration, and a phase that takes too long is a stall."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
from absl import logging

STEP_STALL_S = 120.0
STEP_STALL_PACES = 10


@dataclasses.dataclass(frozen=True)
class Phase:
    """A part of a run that can hang.

    Attributes:
      name: what the run is doing, "waiting for the first batch".
      expected_s: seconds after which it is a stall; None for a part of a step, which is judged by the pace of the
        steps and gets no log line.
      hint: where to look then.
    """

    name: str
    expected_s: float | None = 60.0
    hint: str = ""


CONNECT = Phase(
    "connecting to the other processes",
    20,
    "have all of them started, and is --coordinator reachable from here?",
)
OPEN = Phase(
    "opening data and tokenizer",
    120,
    "datasets that are built and tokenizers that are trained on first use take minutes",
)
INITIAL_STATE = Phase(
    "making or restoring the initial state",
    180,
    "all files of a checkpoint are read, and all processes must get here",
)
FIRST_BATCH = Phase(
    "waiting for the first batch",
    60,
    "the readers (config.data.threads or .processes of them) are working or waiting for the storage",
)
FIRST_STEP = Phase(
    "compiling and taking the first step",
    300,
    "large models compile for minutes (--compile_cache keeps the result); all processes must get here",
)
DATA = Phase("waiting for data", None)
STEP = Phase("waiting for the devices", None)
SAVE = Phase(
    "starting a checkpoint", 300, "the previous save must end first; is the storage slow or full?"
)
EVALUATE = Phase("evaluating", 1800)
PROFILE = Phase("writing the profile", 300)
LAST_CHECKPOINT = Phase(
    "waiting for the last checkpoint", 600, "is the storage of --workdir slow or full?"
)
DRAW = Phase("drawing pictures", 120)


class Stall(NamedTuple):
    """A wait that takes too long.

    Attributes:
      key: identifies the wait.
      seconds: its duration so far.
      text: one line about it.
    """

    key: tuple[str, float]
    seconds: float
    text: str


class Running:
    """A phase in progress; `detail` is added to its log line, and `quiet` suppresses the line."""

    def __init__(self, phase: Phase, since: float) -> None:
        self.phase, self.since = phase, since
        self.detail, self.quiet = "", phase.expected_s is None


class Phases:
    """The phases of one run, which a `timix_jax.reporting.watchdog.Watchdog` reads from its own thread.

    Args:
      clock: seconds.
      log: takes the line of a phase that has ended.

    **Example:**

        phases = Phases()
        with phases(FIRST_BATCH):
            batch = next(batches)      # logs "waiting for the first batch: 2.3 s"
        for step in range(1, 100):
            with phases(DATA): ...
            with phases(STEP): ...
            phases.step_done(step)
        phases.end_steps()
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        log: Callable[[str], None] = logging.info,
    ) -> None:
        self._clock, self._log = clock, log
        # Each is replaced as a whole, so that the other thread never sees a partial change.
        self._running: Running | None = None
        self._last = ""
        self._step: tuple[int, float] | None = None  # the last step, and when the next one started
        self._pace = 0.0

    @contextlib.contextmanager
    def __call__(self, phase: Phase) -> Iterator[Running]:
        """Attribute the time inside to `phase`, and log its line unless something is raised."""
        outer, running = self._running, Running(phase, self._clock())
        self._running, self._last = running, phase.name
        try:
            # Profiler traces show the phases too.
            with jax.profiler.TraceAnnotation(phase.name):
                yield running
        finally:
            self._running = outer
        seconds = self._clock() - running.since
        if not running.quiet:
            detail = f" ({running.detail})" if running.detail else ""
            self._log(f"{phase.name}: {seconds:.1f} s{detail}")
        # An evaluation between two steps does not count towards their pace.
        if self._step is not None and phase.expected_s is not None:
            self._step = (self._step[0], self._step[1] + seconds)

    def step_done(self, step: int) -> None:
        """Note that `step` steps are done; their pace is watched from the first call on."""
        now = self._clock()
        if self._step is not None:
            seconds = now - self._step[1]
            self._pace = seconds if not self._pace else 0.9 * self._pace + 0.1 * seconds
        self._step = (step, now)

    def end_steps(self) -> None:
        """Note that no further step will come."""
        self._step, self._pace = None, 0.0

    def stall(self) -> Stall | None:
        """Return the wait that takes longer than expected, if there is one."""
        running, step, now = self._running, self._step, self._clock()
        if running is not None and running.phase.expected_s is not None:
            phase, seconds = running.phase, now - running.since
            if seconds < running.phase.expected_s:
                return None
            hint = f": {phase.hint}" if phase.hint else ""
            text = f"still {phase.name} after {seconds:.0f} s{hint}"
            return Stall((phase.name, running.since), seconds, text)
        if step is None or now - step[1] < max(STEP_STALL_S, STEP_STALL_PACES * self._pace):
            return None
        seconds = now - step[1]
        text = f"no step for {seconds:.0f} s (the last was {step[0]}); last phase: {self._last}"
        return Stall(("step", step[1]), seconds, text)
