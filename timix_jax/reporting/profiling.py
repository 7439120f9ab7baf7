"""A profiler trace of a window of training steps, for XProf, TensorBoard and Perfetto."""

import re
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import jax
from absl import logging
from etils import epath

from timix_jax.errors import UserError
from timix_jax.runtime.workdir import is_remote

PROFILE_FOLDER = "profile"


class Window(NamedTuple):
    """Steps, counted as in the log: from when `start` steps are done until `stop` are."""

    start: int
    stop: int


def parse_window(text: str) -> Window | None:
    """`10:15`, the five steps after the tenth; None for no text.

    Raises:
        UserError: it is not START:STOP with START below STOP.
    """
    if not text:
        return None
    numbers = re.fullmatch(r"(\d+):(\d+)", text)
    if numbers is None:
        raise UserError(f"--profile={text}: write START:STOP in steps, such as 10:15")
    window = Window(*map(int, numbers.groups()))
    if window.start >= window.stop:
        raise UserError(f"--profile={text}: START must lie before STOP, such as 10:15")
    return window


def check_window(window: Window | None, total_steps: int, workdir: epath.Path) -> None:
    """Raises a UserError for a window that the run does not reach the end of, or whose trace has no place."""
    if window is None:
        return
    folder = workdir / PROFILE_FOLDER
    if folder.exists() and not folder.is_dir():
        raise UserError(
            f"--profile: {folder} is a file, where the trace's folder would be: move it away"
        )
    if window.stop > total_steps:
        raise UserError(
            f"--profile={window.start}:{window.stop}: the run ends after {total_steps} steps; choose a STOP within"
        )


class StepProfiler:
    """Traces this process while the window lasts; on process 0 only, whose devices stand for all.

    Steps are marked as such (`jax.profiler.StepTraceAnnotation`), so that the tools show their times.
    Python's own calls are left out: tracing them would slow the steps down.

    **Example:**

        with StepProfiler(parse_window("10:15"), workdir) as profiler:
            for step in range(total_steps):
                if profiler.due(step):
                    jax.block_until_ready(state)
                    profiler.turn(step)
                ...
    """

    def __init__(self, window: Window | None, workdir: epath.PathLike) -> None:
        """
        Args:
            window: None for no trace.
            workdir: local or `gs://…`; the trace goes to its folder `profile`.
        """
        self._window = window if jax.process_index() == 0 else None
        self._folder = epath.Path(workdir) / PROFILE_FOLDER
        self._begun: int | None = None
        self._local = ""

    def due(self, step: int) -> bool:
        """Whether `turn` starts or stops the trace where `step` steps are done."""
        if self._window is None:
            return False
        if self._begun is not None:
            return step >= self._window.stop
        return step >= self._window.start

    def turn(self, step: int) -> None:
        """Starts or stops; await the steps that are under way before, or they would be cut."""
        assert self._window is not None
        if self._begun is not None:
            self._stop(step)
        elif step >= self._window.stop:
            start, stop = self._window
            logging.warning("--profile=%d:%d: the run goes on from step %d", start, stop, step)
            self._window = None
        else:
            self._begun = step
            # The profiler writes local files only.
            self._local = (
                tempfile.mkdtemp() if is_remote(self._folder) else str(self._folder.resolve())
            )
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0
            jax.profiler.start_trace(self._local, profiler_options=options)

    def _stop(self, step: int) -> None:
        first, self._begun, self._window = self._begun, None, None
        jax.profiler.stop_trace()
        if is_remote(self._folder):
            _copy(Path(self._local), self._folder)
            shutil.rmtree(self._local)
        logging.info(
            "trace from step %s to %d is in %s: tensorboard --logdir=%s, or perfetto.dev with its trace.json.gz",
            first,
            step,
            self._folder,
            self._folder,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Ends a trace that an error or an early end has cut short, and drops it."""
        if self._begun is not None:
            self._begun = None
            jax.profiler.stop_trace()


def _copy(source: Path, target: epath.Path) -> None:
    for path in source.rglob("*"):
        if path.is_file():
            copy = target / path.relative_to(source).as_posix()
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
