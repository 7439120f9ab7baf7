"""Train the runs of a study in parallel, each on its own cores, and keep a record of each."""

import concurrent.futures
import dataclasses
import json
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from timix_jax.errors import UserError
from timix_jax.runtime.atomic_write import atomic_write_bytes
from timix_jax.study.plan import Cell, Study

RECORD = "record.json"
_STARTED = "started.json"
RUNS = "runs"
_LOG = "study.log"
_MAIN = (sys.executable, "-m", "timix_jax.main")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The end of one run.

    Attributes:
      cell: the run.
      error: empty, or the last line that it printed.
    """

    cell: Cell
    error: str = ""


@dataclasses.dataclass
class Runner:
    """Trains what is missing.

    A run that is stopped with the study has saved its state and goes on next time. Runs that have failed are tried
    again the next time.

    Attributes:
      study: the grid.
      out: folder of the study.
      code: from `code_version`.
      workers: runs at a time; the cores of this process are divided between them.
      program: the command that trains, without its flags.
      say: called with one line per run that ends.
    """

    study: Study
    out: Path
    code: dict[str, Any]
    workers: int
    program: Sequence[str] = _MAIN
    say: Callable[[str], None] = print

    def __post_init__(self) -> None:
        self._stopping = threading.Event()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()

    def run(self, cells: Sequence[Cell]) -> list[Outcome]:
        """Train the cells without a record; return how they ended, in their order.

        Raises:
          UserError: the folder holds runs of other code.
        """
        todo = [cell for cell in cells if read_record(self.folder(cell), self.code) is None]
        cores = sorted(os.sched_getaffinity(0))
        groups: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
        workers = max(1, min(self.workers, len(todo) or 1))
        for worker in range(workers):
            groups.put(cores[worker::workers] or cores)
        done = len(cells) - len(todo)
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            futures = [pool.submit(self._one, cell, groups) for cell in todo]
            try:
                for future in concurrent.futures.as_completed(futures):
                    outcome = future.result()
                    if outcome is not None:
                        done += not outcome.error
                        ending = f"FAILED: {outcome.error}" if outcome.error else "done"
                        self.say(f"[{done}/{len(cells)}] {outcome.cell.folder}: {ending}")
            except BaseException:
                self.stop()
                raise
        return [outcome for f in futures if (outcome := f.result()) is not None]

    def stop(self) -> None:
        """Let every run save and end; no further run starts."""
        self._stopping.set()
        with self._lock:
            for process in self._running:
                process.send_signal(signal.SIGTERM)

    def folder(self, cell: Cell) -> Path:
        """Return the working folder of a run."""
        return self.out / RUNS / cell.folder

    def command(self, cell: Cell) -> list[str]:
        """Return the command that trains a run, which anyone can repeat."""
        changes = [f"--config.{change}" for change in self.study.changes(cell)]
        return [
            *self.program,
            f"--config={self.study.recipe}",
            f"--workdir={self.folder(cell)}",
            *changes,
        ]

    def _one(self, cell: Cell, groups: queue.SimpleQueue[list[int]]) -> Outcome | None:
        """Train one run on a free group of cores; None if the study stopped before its end."""
        if self._stopping.is_set():
            return None
        cores = groups.get()
        try:
            return self._train(cell, cores)
        finally:
            groups.put(cores)

    def _train(self, cell: Cell, cores: list[int]) -> Outcome | None:
        folder = self.folder(cell)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / _STARTED).exists():
            atomic_write_bytes(folder / _STARTED, json.dumps({"code": self.code}).encode())
        command = self.command(cell)
        # Inherited by the process; libraries count the cores that they may use.
        os.sched_setaffinity(0, cores)
        start = time.monotonic()
        with (folder / _LOG).open("ab") as log:
            with self._lock:
                if self._stopping.is_set():
                    return None
                process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
                self._running.add(process)
            code = process.wait()
            with self._lock:
                self._running.discard(process)
        seconds = time.monotonic() - start
        results = folder / "results.json"
        if code == 0 and results.exists():
            self._write_record(cell, command, json.loads(results.read_bytes()), seconds, len(cores))
            return Outcome(cell)
        if self._stopping.is_set():
            return None
        return Outcome(cell, f"exit code {code}: {_last_line(folder / _LOG)} ({folder / _LOG})")

    def _write_record(
        self,
        cell: Cell,
        command: list[str],
        results: dict[str, float],
        seconds: float,
        cores: int,
    ) -> None:
        record = {
            "cell": cell._asdict(),
            "results": results,
            "seconds": round(seconds, 1),
            "cores": cores,
            **_from_log(self.folder(cell) / "metrics.jsonl"),
            "command": ["python", *command[1:]],  # this machine's path tells nobody anything
            "code": self.code,
        }
        text = json.dumps(record, indent=1)
        atomic_write_bytes(self.folder(cell) / RECORD, text.encode())


def read_record(folder: Path, code: dict[str, Any]) -> dict[str, Any] | None:
    """Return the record of a finished run; None if it has not ended.

    Raises:
      UserError: a record cannot be read, or another version of the code made it or began the run.
    """
    _read(folder / _STARTED, code)
    return _read(folder / RECORD, code)


def recorded_code(out: Path) -> dict[str, Any]:
    """Return the version of the code that made the runs of a study; `read_record` refuses any other among them.

    Raises:
      UserError: no run has ended, or a record cannot be read.
    """
    for path in sorted(out.glob(f"{RUNS}/*/{RECORD}")):
        try:
            code: dict[str, Any] = json.loads(path.read_bytes())["code"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} cannot be read ({error!r}); delete its folder") from None
        return code
    raise UserError(f"{out}: no run has ended, so that there is nothing to report")


def _read(path: Path, code: dict[str, Any]) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads(path.read_bytes())
        made_by = record["code"]
        other = [name for name in ("digest", "packages") if made_by[name] != code[name]]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read ({error!r}); delete its folder to train the run again"
        ) from None
    if other:
        raise UserError(
            f"{path} was made by other code (commit {made_by['commit'] or 'unknown'}, now"
            f" {code['commit'] or 'unknown'}; {other[0]} differs): runs of different code are not compared. Give"
            " another --out, or check out that commit"
        )
    return record


def _from_log(metrics: Path) -> dict[str, Any]:
    """Return the training's steps and FLOPs, and `mixed`: the mean of each `mixed_*` over the logged steps.

    A step without a `mixed_*` mixed nothing. FLOPs of a line are those of the steps since the line before.
    """
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    logged = [line for line in lines if "loss" in line]
    names = {name for line in logged for name in line if name.startswith("mixed_")}
    mixed = {name: sum(line.get(name, 0.0) for line in logged) / len(logged) for name in names}
    ends = [line["step"] for line in logged]
    counts = [line.get("flops_per_step", math.nan) for line in logged]
    flops = sum(n * (end - start) for n, start, end in zip(counts, [0, *ends], ends, strict=False))
    return {"steps": ends[-1], "flops": flops, "mixed": dict(sorted(mixed.items()))}


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "no output"
