"""What a run is at: a log line for each phase with its duration, and what is said of a stall."""

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
      name: what is being done, "waiting for the first batch".
      expected_s: seconds after which it is said to take long; None for a part of a step, which is
        judged by the pace of the steps and gets no line of its own.
      hint: what to look at then.
    """

    name: str
    expected_s: float | None = 60.0
    hint: str = ""


CONNECT = Phase(
    "connecting to the other processes",
    20,
    "is each of them started, and --coordinator reachable from here?",
)
OPEN = Phase(
    "opening data and tokenizer",
    120,
    "data that are built or tokenizers that are trained on first use take minutes",
)
INITIAL_STATE = Phase(
    "making or restoring the initial state",
    180,
    "all files of a checkpoint are read, and all processes must get here",
)
FIRST_BATCH = Phase(
    "waiting for the first batch",
    60,
    "the readers work (config.data.threads or .processes of them) or wait for the storage",
)
FIRST_STEP = Phase(
    "compiling and taking the first step",
    300,
    "large models compile for minutes (--compile_cache keeps them); all processes must get here",
)
DATA = Phase("waiting for data", None)
STEP = Phase("waiting for the devices", None)
SAVE = Phase(
    "starting a checkpoint", 300, "the save before must end first; is the storage slow or full?"
)
EVALUATE = Phase("evaluating", 1800)
PROFILE = Phase("writing the profile", 300)
LAST_CHECKPOINT = Phase(
    "waiting for the last checkpoint", 600, "is the storage of --workdir slow or full?"
)
DRAW = Phase("drawing pictures", 120)


class Stall(NamedTuple):
    """Something takes too long.

    Attributes:
      key: the same as long as it is the same wait.
      seconds: how long it takes already.
      text: one line.
    """

    key: tuple[str, float]
    seconds: float
    text: str


class Running:
    """A phase that runs; `detail` is added to its line in the log, which `quiet` leaves out."""

    def __init__(self, phase: Phase, since: float) -> None:
        self.phase, self.since = phase, since
        self.detail, self.quiet = "", phase.expected_s is None


class Phases:
    """The phases of one run; read by a `~timix_jax.reporting.watchdog.Watchdog` from its thread.

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
        """
        Args:
          clock: seconds.
          log: takes the line of a phase that has ended.
        """
        self._clock, self._log = clock, log
        # Each is replaced as a whole, so that the other thread never sees half of a change.
        self._running: Running | None = None
        self._last = ""
        self._step: tuple[int, float] | None = None  # the last step, and when the next one began
        self._pace = 0.0

    @contextlib.contextmanager
    def __call__(self, phase: Phase) -> Iterator[Running]:
        """The time within belongs to `phase`; its line is logged where nothing is raised."""
        outer, running = self._running, Running(phase, self._clock())
        self._running, self._last = running, phase.name
        try:
            # In a profiler's trace the phases are seen, too.
            with jax.profiler.TraceAnnotation(phase.name):
                yield running
        finally:
            self._running = outer
        seconds = self._clock() - running.since
        if not running.quiet:
            detail = f" ({running.detail})" if running.detail else ""
            self._log(f"{phase.name}: {seconds:.1f} s{detail}")
        # An evaluation within the steps is no part of their pace.
        if self._step is not None and phase.expected_s is not None:
            self._step = (self._step[0], self._step[1] + seconds)

    def step_done(self, step: int) -> None:
        """`step` steps are done; from the first call on their pace is watched."""
        now = self._clock()
        if self._step is not None:
            seconds = now - self._step[1]
            self._pace = seconds if not self._pace else 0.9 * self._pace + 0.1 * seconds
        self._step = (step, now)

    def end_steps(self) -> None:
        """No further step is to come."""
        self._step, self._pace = None, 0.0

    def stall(self) -> Stall | None:
        """What takes longer than expected; None where nothing does."""
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
