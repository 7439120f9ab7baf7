"""Write the numbers of a run: one JSON object per logged step, TensorBoard, Weights & Biases, the final results."""

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Self

import jax
import numpy as np
from etils import epath

from timix_jax.distributed import processes
from timix_jax.errors import RunError, reraise_write_errors
from timix_jax.reporting.peak_memory import DEVICE_MEMORY, HOST_MEMORY
from timix_jax.runtime.atomic_write import atomic_write_text
from timix_jax.runtime.remote import Mirror, as_path, is_remote
from timix_jax.runtime.workdir import METRICS_FILE, truncate_jsonl

if TYPE_CHECKING:
    from timix_jax.reporting.tensorboard import EventFile
    from timix_jax.reporting.weights_and_biases import WandbRun

RESULTS_FILE = "results.json"
TENSORBOARD_DIR = "tensorboard"
SKIPPED, DATA_WAIT = "skipped_examples", "data_wait"

Number = int | float | bool | None


def json_number(name: str, value: Any) -> Number:
    """Convert a Python, NumPy or JAX scalar to JSON; NaN and infinities become None (null).

    float32 and below keep every bit, in the fewest digits that do.

    Raises:
      ValueError: not a scalar number.
    """
    array = np.asarray(value)
    if array.ndim or (array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16"):
        raise ValueError(f"metric {name!r}: {array.dtype} of shape {array.shape}; want one number")
    if array.dtype.kind in "biu":
        return bool(array) if array.dtype.kind == "b" else int(array)
    number = float(array)
    if not math.isfinite(number):
        return None
    # The shortest text that identifies a float32: 0.1, not 0.10000000149011612.
    return number if array.dtype.itemsize > 4 else float(str(array.astype(np.float32)))


def over_processes(own: Mapping[str, float]) -> tuple[dict[str, float], int | None]:
    """Combine the metrics of all processes: the sum of the skipped examples, the largest data wait and memory.

    Every process calls this at each log step, and none waits for the others: each of them counts with the values it
    gave last, at this log step or the previous one.

    Args:
      own: metrics of this process.

    Returns:
      On the first process the combined metrics, on the others `own`; and the process that waited longest for its
      data, None with a single process.
    """
    largest = [name for name in (DATA_WAIT, DEVICE_MEMORY, HOST_MEMORY) if name in own]
    shared = {name: own[name] for name in (SKIPPED, *largest) if name in own}
    everyone = processes.latest("log", shared)
    if len(everyone) == 1:
        return dict(own), None
    combined = {name: max(each.get(name, 0.0) for each in everyone.values()) for name in largest}
    combined[SKIPPED] = sum(each.get(SKIPPED, 0) for each in everyone.values())
    slowest = max(everyone, key=lambda process: everyone[process].get(DATA_WAIT, 0.0))
    return {**own, **combined}, slowest


def reraise_file_errors(path: epath.Path) -> contextlib.AbstractContextManager[None]:
    """Turn an OSError inside into the RunError that names the file."""
    return reraise_write_errors(
        RunError, path, "free space or fix what it says, and the same command resumes"
    )


class MetricsWriter:
    """Appends metrics to `WORKDIR/metrics.jsonl`, TensorBoard and Weights & Biases, on process 0 only.

    Attributes:
      names_at_start: names that an earlier run has written under `first_step`; empty on other processes.

    **Example:**

        with MetricsWriter(workdir, first_step=state.step) as writer:
            writer.write(step, {"loss": loss, "lr": lr})
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        *,
        first_step: int,
        tensorboard: bool = True,
        wandb: bool = False,
        config: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Open or create the files, dropping what an earlier run wrote after `first_step`.

        Args:
          workdir: the folder, local or `gs://…`.
          first_step: the step that training continues from, 0 for a new run. Later lines, and an incomplete one, are
            cut from the JSON; TensorBoard hides them.
          tensorboard: also write TensorBoard events.
          wandb: also log to Weights & Biases.
          config: dotted field name → value, for Weights & Biases.
        """
        self._file = None
        self._tensorboard: EventFile | None = None
        self._wandb: WandbRun | None = None
        self._mirror: Mirror | None = None
        self.names_at_start: frozenset[str] = frozenset()
        if jax.process_index():
            return
        folder = as_path(workdir)
        folder.mkdir(parents=True, exist_ok=True)
        self._path = path = folder / METRICS_FILE
        with reraise_file_errors(path):
            truncate_jsonl(path, first_step)
        self._first_step, self.names_at_start = first_step, _names_at(path, first_step)
        if is_remote(folder):
            self._mirror = Mirror(folder)
            path, folder = self._mirror.fetch(METRICS_FILE), epath.Path(self._mirror.folder)
        self._file = epath.Path(path).open("a", encoding="utf-8")
        if tensorboard:
            # Imported here: it takes a second, and only the first process needs it.
            from timix_jax.reporting import tensorboard as events

            self._tensorboard = events.EventFile(folder / TENSORBOARD_DIR, first_step=first_step)
        if wandb:
            from timix_jax.reporting import weights_and_biases  # likewise

            self._wandb = weights_and_biases.WandbRun(as_path(workdir), config)

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Write scalars under a step; once written they survive a kill of the process.

        In a remote folder, what was there at the last `flush` or half a minute ago survives. What an earlier run has
        written under `first_step` is not written twice.

        Raises:
          ValueError: a value is not a scalar number.
          RunError: a file cannot be written, as on a full disk.
        """
        if self._file is None:
            return
        numbers = {name: json_number(name, value) for name, value in metrics.items()}
        if step == self._first_step and numbers.keys() <= self.names_at_start:
            return  # a finished run is evaluated again
        line = json.dumps({"step": int(step), **numbers}, allow_nan=False) + "\n"
        with self._closed_on_failure(self._path):
            self._file.write(line)
            self._file.flush()
        finite = {name: float(n) for name, n in numbers.items() if n is not None}
        if self._wandb is not None:
            self._wandb.write(int(step), finite)
        if self._tensorboard is not None:
            with self._closed_on_failure(self._path.parent / TENSORBOARD_DIR):
                self._tensorboard.write(int(step), finite)
        if self._mirror is not None:
            self._mirror.tick()

    def flush(self) -> None:
        """Upload all lines to a remote folder; call before each checkpoint, which must not be ahead of them."""
        if self._mirror is not None:
            self._mirror.flush()

    def close(self, *, failed: bool = False) -> None:
        """Close the files; further calls do nothing. `failed` marks the run on Weights & Biases."""
        self._close_files()
        if self._wandb is not None:
            self._wandb.close(failed=failed)
        if self._mirror is not None:
            mirror, self._mirror = self._mirror, None
            mirror.close()

    @contextlib.contextmanager
    def _closed_on_failure(self, path: epath.Path) -> Iterator[None]:
        try:
            with reraise_file_errors(path):
                yield
        except RunError:
            self._close_files()
            raise

    def _close_files(self) -> None:
        for file in (self._file, self._tensorboard):
            if file is not None:
                # All lines are written; after a failure, closing only repeats the failing write.
                with contextlib.suppress(OSError):
                    file.close()
        self._file = self._tensorboard = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(failed=error is not None)


def _names_at(path: epath.Path, step: int) -> frozenset[str]:
    """Return the names that the file already holds under a step."""
    if not path.exists():
        return frozenset()
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    return frozenset(name for line in lines if line.get("step") == step for name in line)


def write_results(path: str | os.PathLike[str], results: Mapping[str, Any]) -> None:
    """Write one flat JSON object of name → number, whole or not at all, on process 0 only.

    Args:
      path: such as `WORKDIR/results.json`; its folder is created if missing.
      results: scalars; NaN and infinities become `null`.

    Raises:
      ValueError: a value is not a scalar number; the file stays as it was.
      RunError: it cannot be written.
    """
    if jax.process_index():
        return
    numbers = {name: json_number(name, value) for name, value in results.items()}
    text = json.dumps(numbers, indent=2, allow_nan=False) + "\n"
    target = as_path(path)
    with reraise_file_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(target, text)
