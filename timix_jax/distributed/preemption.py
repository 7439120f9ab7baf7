"""Save and leave on Ctrl-C and on SIGTERM, which Cloud TPU, Slurm and Kubernetes send before taking a machine."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

import jax
from absl import logging
from etils import epath
from jax.experimental import multihost_utils


def stopped_line(step: int, workdir: epath.PathLike) -> str:
    """Return the last line of a run that was asked to end early."""
    return (
        f"SIGTERM: stopped after step {step}; checkpoint {step} is saved in {workdir}; run the same command again to"
        " resume"
    )


def end_at_sigterm() -> None:
    """Let SIGTERM end this process at once, as there is nothing to save.

    With several processes JAX has installed a handler, which would ignore it.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class Preemption:
    """Records a request to end the run early. Use as a context manager around the whole run.

    With several processes JAX catches SIGTERM, whichever of them receives it, and chooses a step that all of them can
    still reach. A single process has its own handler, which is removed when the context ends. Outside the training
    loop, where a run ends by itself, nothing happens. Once a step is taken, the first Ctrl-C acts as SIGTERM; before,
    when there is nothing to save, and the second time, it does what it did outside the context.

    **Example:**

      with Preemption() as preemption:
          for step in range(1, total + 1):
              ...
              if preemption.reached(step):
                  save(step)
                  break
    """

    def __init__(self) -> None:
        self._asked = False
        self._catches_ctrl_c = False
        self._before: dict[int, Any] = {}

    def reached(self, step: int) -> bool:
        """Return True if the run must save and end after `step`, the same step on all processes.

        Call it from all processes after each step. It costs less than a microsecond.
        """
        if not self._catches_ctrl_c:
            self._catches_ctrl_c = True
            if threading.current_thread() is threading.main_thread():
                self._set(signal.SIGINT, self._interrupt)
        if jax.distributed.is_initialized():
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked

    def __enter__(self) -> Self:
        # Only the main thread can set handlers; elsewhere the signals keep their meaning.
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and not jax.distributed.is_initialized():
            self._set(signal.SIGTERM, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _set(self, number: signal.Signals, handler: Any) -> None:
        self._before[number] = signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        logging.warning("SIGTERM: saving after this step")

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, self._before[signal.SIGINT])
        logging.warning(
            "Ctrl-C: leaving as with SIGTERM; press it again to end the run without saving"
        )
        signal.raise_signal(signal.SIGTERM)
