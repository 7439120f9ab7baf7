"""SIGTERM, as a Cloud TPU, Slurm or Kubernetes sends it before it takes a machine, and Ctrl-C: save and leave."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

import jax
from absl import logging
from etils import epath
from jax.experimental import multihost_utils


def stopped_line(step: int, workdir: epath.PathLike) -> str:
    """What a person is told at the end of a run that was asked to end early."""
    return (
        f"SIGTERM: stopped after step {step}; checkpoint {step} is saved in {workdir}; run the same command again to"
        " resume"
    )


def end_at_sigterm() -> None:
    """SIGTERM ends this process at once: there is nothing to save.

    With several processes JAX has caught it, and would do so in vain.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class Preemption:
    """Whether this run is to end early. Use as a context manager round the whole run.

    With several processes JAX catches SIGTERM, whichever of them gets it, and chooses a step that all of them can
    still reach. A single one has its own handler, which goes with the context. Outside the training loop, where a run
    ends by itself, nothing happens. The first Ctrl-C is a SIGTERM, the second a KeyboardInterrupt.

    Example:
      with Preemption() as preemption:
          for step in range(1, total + 1):
              ...
              if preemption.reached(step):
                  save(step)
                  break
    """

    def __init__(self) -> None:
        self._asked = False
        self._before: dict[int, Any] = {}

    def reached(self, step: int) -> bool:
        """True if the run is to save and end after `step`: on all processes at the same one.

        To be called by all processes after each step. It costs less than a microsecond.
        """
        if jax.distributed.is_initialized():
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked

    def __enter__(self) -> Self:
        # A handler can be set by the main thread only; elsewhere the signals keep their meaning.
        if threading.current_thread() is threading.main_thread():
            self._set(signal.SIGINT, self._interrupt)
            if not jax.distributed.is_initialized():
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
        signal.signal(signal.SIGINT, signal.default_int_handler)
        logging.warning("Ctrl-C: leaving as with SIGTERM; once more ends the run without saving")
        signal.raise_signal(signal.SIGTERM)
