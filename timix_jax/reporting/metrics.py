"""Where the numbers of a run go: a JSON object a logged step, TensorBoard, the final results."""

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import jax
import numpy as np
from etils import epath

from timix_jax.errors import RunError, unwritable
from timix_jax.runtime.atomic_write import atomic_write_text
from timix_jax.runtime.remote import Mirror, as_path, is_remote
from timix_jax.runtime.workdir import METRICS_FILE, truncate_jsonl

if TYPE_CHECKING:
    from timix_jax.reporting.tensorboard import EventFile

RESULTS_FILE = "results.json"
TENSORBOARD_DIR = "tensorboard"

Number = int | float | bool | None


def json_number(name: str, value: Any) -> Number:
    """A scalar (Python, NumPy or JAX) as JSON can hold it; NaN and infinities become None (null).

    float32 and below keep every bit in as few digits as that takes.

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
    # The shortest text that tells a float32 from its neighbours: 0.1, not 0.10000000149011612.
    return number if array.dtype.itemsize > 4 else float(str(array.astype(np.float32)))


def fault_where_it_cannot_be_written(path: epath.Path) -> contextlib.AbstractContextManager[None]:
    """An OSError within becomes the RunError that names the file."""
    return unwritable(
        RunError, path, "free space or mend what it says, and the same command resumes"
    )


class MetricsWriter:
    """Appends metrics to `WORKDIR/metrics.jsonl` and TensorBoard, on process 0 only.

    **Example:**

        with MetricsWriter(workdir, first_step=state.step) as writer:
            writer.write(step, {"loss": loss, "lr": lr})
    """

    def __init__(
        self, workdir: str | os.PathLike[str], *, first_step: int, tensorboard: bool = True
    ) -> None:
        """Opens (and makes) the files; what an earlier run wrote beyond `first_step` goes.

        Args:
            workdir: the folder, local or `gs://…`.
            first_step: the step that training continues from, 0 for a new run: later lines, and an
                incomplete one, are cut from the JSON; TensorBoard hides them.
            tensorboard: whether to write TensorBoard events too.
        """
        self._file = None
        self._tensorboard: EventFile | None = None
        self._mirror: Mirror | None = None
        if jax.process_index():
            return
        folder = as_path(workdir)
        folder.mkdir(parents=True, exist_ok=True)
        self._path = path = folder / METRICS_FILE
        with fault_where_it_cannot_be_written(path):
            truncate_jsonl(path, first_step)
        self._first_step, self._logged = first_step, _names_at(path, first_step)
        if is_remote(folder):
            self._mirror = Mirror(folder)
            path, folder = self._mirror.fetch(METRICS_FILE), epath.Path(self._mirror.folder)
        self._file = epath.Path(path).open("a", encoding="utf-8")
        if tensorboard:
            # Imported here: it takes a second, and only one process of a training run needs it.
            from timix_jax.reporting import tensorboard as events

            self._tensorboard = events.EventFile(folder / TENSORBOARD_DIR, first_step=first_step)

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Writes scalars under a step; what has been written survives a kill of the process.

        In a remote folder only what was there at the last `flush`, or half a minute ago, survives.

        What an earlier run has written under `first_step` is not written twice.

        Raises:
            ValueError: a value is not a scalar number.
            RunError: a file cannot be written, as on a full disk.
        """
        if self._file is None:
            return
        numbers = {name: json_number(name, value) for name, value in metrics.items()}
        if step == self._first_step and numbers.keys() <= self._logged:
            return  # a finished run, evaluated again
        line = json.dumps({"step": int(step), **numbers}, allow_nan=False) + "\n"
        with self._named_where_it_fails(self._path):
            self._file.write(line)
            self._file.flush()
        if self._tensorboard is not None:
            finite = {name: float(n) for name, n in numbers.items() if n is not None}
            with self._named_where_it_fails(self._path.parent / TENSORBOARD_DIR):
                self._tensorboard.write(int(step), finite)
        if self._mirror is not None:
            self._mirror.tick()

    def flush(self) -> None:
        """Brings all lines to a remote folder; to be called before each checkpoint, which lines must not lag."""
        if self._mirror is not None:
            self._mirror.flush()

    def close(self) -> None:
        """Closes the files; further calls do nothing."""
        self._close_files()
        if self._mirror is not None:
            mirror, self._mirror = self._mirror, None
            mirror.close()

    @contextlib.contextmanager
    def _named_where_it_fails(self, path: epath.Path) -> Iterator[None]:
        try:
            with fault_where_it_cannot_be_written(path):
                yield
        except RunError:
            self._close_files()
            raise

    def _close_files(self) -> None:
        for file in (self._file, self._tensorboard):
            if file is not None:
                # All lines are written; after a failure it tries the same once more.
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
        self.close()


def _names_at(path: epath.Path, step: int) -> set[str]:
    """The names that the file holds under a step already."""
    if not path.exists():
        return set()
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    return {name for line in lines if line.get("step") == step for name in line}


def write_results(path: str | os.PathLike[str], results: Mapping[str, Any]) -> None:
    """Writes one flat JSON object of name → number, whole or not at all; process 0 only.

    Args:
        path: such as `WORKDIR/results.json`; its folder is made where missing.
        results: scalars; NaN and infinities become `null`.

    Raises:
        ValueError: a value is not a scalar number; the file is left as it was.
        RunError: it cannot be written.
    """
    if jax.process_index():
        return
    numbers = {name: json_number(name, value) for name, value in results.items()}
    text = json.dumps(numbers, indent=2, allow_nan=False) + "\n"
    target = as_path(path)
    with fault_where_it_cannot_be_written(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(target, text)
