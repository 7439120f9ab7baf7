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
    """A range of steps, counted as in the log: from when `start` steps are done until `stop` are."""

    start: int
    stop: int


def parse_window(text: str) -> Window | None:
    """Parse `10:15`, the five steps after the tenth; an empty text gives None.

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
        raise UserError(f"--profile={text}: START must be before STOP, such as 10:15")
    return window


def check_window(window: Window | None, total_steps: int, workdir: epath.Path) -> None:
    """Refuse a window whose end the run does not reach, or whose trace cannot be written.

    Raises:
      UserError: says which.
    """
    if window is None:
        return
    folder = workdir / PROFILE_FOLDER
    if folder.exists() and not folder.is_dir():
        raise UserError(
            f"--profile: {folder} is a file, but the trace needs a folder there: move it away"
        )
    if window.stop > total_steps:
        raise UserError(
            f"--profile={window.start}:{window.stop}: the run ends after {total_steps} steps; choose a STOP within"
        )


class StepProfiler:
    """Traces the steps of a window on process 0, whose devices stand for all.

    The loop marks the steps (`jax.profiler.StepTraceAnnotation`), so that the tools show their times. Python calls are
    left out: tracing them would slow the steps down.

    Args:
      window: None for no trace.
      workdir: local or `gs://…`; the trace goes to its folder `profile`.

    **Example:**

        with StepProfiler(parse_window("10:15"), workdir) as profiler:
            for step in range(total_steps):
                if profiler.is_due(step):
                    jax.block_until_ready(state)
                    profiler.toggle(step)
                ...
    """

    def __init__(self, window: Window | None, workdir: epath.PathLike) -> None:
        self._window = window if jax.process_index() == 0 else None
        self._folder = epath.Path(workdir) / PROFILE_FOLDER
        self._traced_from: int | None = None
        self._local = ""

    def is_due(self, step: int) -> bool:
        """Return True if the trace starts or stops after `step` steps."""
        if self._window is None:
            return False
        if self._traced_from is not None:
            return step >= self._window.stop
        return step >= self._window.start

    def toggle(self, step: int) -> None:
        """Start or stop the trace. Wait for the steps in flight first, or the trace cuts them off."""
        assert self._window is not None
        if self._traced_from is not None:
            self._stop(step)
        elif step >= self._window.stop:
            start, stop = self._window
            logging.warning(
                "--profile=%d:%d: nothing to trace, the run resumes at step %d", start, stop, step
            )
            self._window = None
        else:
            self._traced_from = step
            # The profiler can only write local files.
            self._local = (
                tempfile.mkdtemp() if is_remote(self._folder) else str(self._folder.resolve())
            )
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0
            jax.profiler.start_trace(self._local, profiler_options=options)

    def _stop(self, step: int) -> None:
        first, self._traced_from, self._window = self._traced_from, None, None
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
        """Stop and drop a trace that an error or an early end has cut short."""
        if self._traced_from is not None:
            self._traced_from = None
            jax.profiler.stop_trace()


def _copy(source: Path, target: epath.Path) -> None:
    for path in source.rglob("*"):
        if path.is_file():
            copy = target / path.relative_to(source).as_posix()
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
