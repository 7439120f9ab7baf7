"""Where the numbers of a run go: a JSON object a logged step, TensorBoard, the final results."""

import contextlib
import json
import math
import os
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol, Self

import jax
import numpy as np
from etils import epath

from timix_jax.errors import UserError
from timix_jax.remote import Mirror, as_path, is_remote
from timix_jax.workdir import METRICS_FILE, atomic_write_text, truncate_jsonl

RESULTS_FILE = "results.json"
TENSORBOARD_DIR = "tensorboard"

Number = int | float | bool | None


class _ScalarWriter(Protocol):
    """The part of a TensorBoard writer that is used here."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


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


class MetricsWriter:
    """Appends metrics to ``WORKDIR/metrics.jsonl`` and TensorBoard, on process 0 only.

    **Example:**

        with MetricsWriter(workdir, first_step=state.step) as writer:
            writer.write(step, {"loss": loss, "lr": lr})
    """

    def __init__(
        self, workdir: str | os.PathLike[str], *, first_step: int, tensorboard: bool = True
    ) -> None:
        """Opens (and makes) the files; what an earlier run wrote beyond ``first_step`` goes.

        Args:
            workdir: the folder, local or ``gs://…``.
            first_step: the step that training continues from, 0 for a new run: later lines, and an
                incomplete one, are cut from the JSON; TensorBoard hides them.
            tensorboard: whether to write TensorBoard events too.
        """
        self._file = None
        self._tensorboard: _ScalarWriter | None = None
        self._mirror: Mirror | None = None
        if jax.process_index():
            return
        folder = as_path(workdir)
        folder.mkdir(parents=True, exist_ok=True)
        self._path = path = folder / METRICS_FILE
        truncate_jsonl(path, first_step)
        self._first_step, self._logged = first_step, _names_at(path, first_step)
        if is_remote(folder):
            self._mirror = Mirror(folder)
            path, folder = self._mirror.fetch(METRICS_FILE), epath.Path(self._mirror.folder)
        self._file = epath.Path(path).open("a", encoding="utf-8")
        if tensorboard:
            # Imported here: it takes a second, and only one process of a training run needs it.
            from tensorboardX import SummaryWriter

            # It hides this step and all after it; step ``first_step`` itself is done and stays.
            purge = {"purge_step": first_step + 1} if first_step else {}
            self._tensorboard = SummaryWriter(logdir=str(folder / TENSORBOARD_DIR), **purge)

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Writes scalars under a step; what has been written survives a kill of the process.

        In a remote folder only what was there at the last ``flush``, or half a minute ago, survives.

        What an earlier run has written under ``first_step`` is not written twice.

        Raises:
            ValueError: a value is not a scalar number.
            UserError: the file cannot be written, as on a full disk.
        """
        if self._file is None:
            return
        numbers = {name: json_number(name, value) for name, value in metrics.items()}
        if step == self._first_step and numbers.keys() <= self._logged:
            return  # a finished run, evaluated again
        line = json.dumps({"step": int(step), **numbers}, allow_nan=False) + "\n"
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            with contextlib.suppress(OSError):  # closing tries to write once more
                self._file.close()
            self._file = None
            raise UserError(
                f"{self._path} cannot be written ({error.strerror}): free space or mend what it says, and the same"
                " command resumes"
            ) from error
        if self._tensorboard is not None:
            for name, number in numbers.items():
                if number is not None:
                    self._tensorboard.add_scalar(name, float(number), int(step))
            self._tensorboard.flush()
        if self._mirror is not None:
            self._mirror.tick()

    def flush(self) -> None:
        """Brings all lines to a remote folder; to be called before each checkpoint, which lines must not lag."""
        if self._mirror is not None:
            self._mirror.flush()

    def close(self) -> None:
        """Closes the files; further calls do nothing."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._tensorboard is not None:
            self._tensorboard.close()
            self._tensorboard = None
        if self._mirror is not None:
            mirror, self._mirror = self._mirror, None
            mirror.close()

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
        path: such as ``WORKDIR/results.json``; its folder is made where missing.
        results: scalars; NaN and infinities become ``null``.

    Raises:
        ValueError: a value is not a scalar number; the file is left as it was.
    """
    if jax.process_index():
        return
    numbers = {name: json_number(name, value) for name, value in results.items()}
    text = json.dumps(numbers, indent=2, allow_nan=False) + "\n"
    target = as_path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(target, text)
