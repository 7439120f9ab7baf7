"""Runs of the real command line in one or several processes, over the loopback."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
from compiler_flags import FLAGS
from places import Places
from repository import ROOT

DEADLINE_S = 600  # of a whole run on a busy machine

# Fewer and smaller programs to compile: no predictor, no boxes, one layer.
SMALL = {
    "loss__pta__weight": 0.0,
    "regions__batch_size": 0,
    "mix__score": "similarity",
    "optim__ema": 0.0,
    "model__image__depth": 1,
    "eval__evaluators": ("retrieval",),
}


class Ended(NamedTuple):
    code: int
    out: str
    err: str


class Run:
    """The processes of one run, started together.

    Args:
      recipe: A file with get_config().
      workdir: A folder, or one per process.
      processes: Number of processes.
      devices: Devices per process.
      flags: Further flags of all processes, or a list of flags per process.
      environment: Further variables of all processes, or one dict per process.
      places: Where each process runs; None for this host.
    """

    def __init__(
        self,
        recipe: Path,
        workdir: Path | list[Path],
        *,
        processes: int = 1,
        devices: int = 8,
        flags: list = (),
        environment: dict[str, str] | list[dict[str, str]] = (),
        places: Places | None = None,
    ):
        places = places or Places([[]] * processes, "127.0.0.1")
        folders = workdir if isinstance(workdir, list) else [workdir] * processes
        own = environment if isinstance(environment, list) else [dict(environment)] * processes
        flags = flags if flags and isinstance(flags[0], list) else [list(flags)] * processes
        self.logs = recipe.parent / f"logs{time.monotonic_ns()}"
        self.logs.mkdir()
        coordinator = f"{places.address}:{free_port()}"
        self.processes = []
        for index in range(processes):
            command = [*places.prefixes[index], sys.executable, "-m", "timix_jax.main"]
            command += [f"--config={recipe}"]
            command += [f"--workdir={folders[index]}", f"--compile_cache={compile_cache()}"]
            if processes > 1:
                command += [f"--coordinator={coordinator}", f"--processes={processes}"]
                command += [f"--process={index}"]
            # Files instead of pipes, which somebody would have to read while the processes run.
            with self._log(index, "out").open("w") as out, self._log(index, "err").open("w") as err:
                self.processes.append(
                    subprocess.Popen(
                        [*command, *flags[index]],
                        env=environment_of(devices) | own[index],
                        stdout=out,
                        stderr=err,
                    )
                )

    def wait(self, deadline_s: float = DEADLINE_S) -> list[Ended]:
        """Wait until all have ended; raise an AssertionError with their logs if they do not."""
        until = time.monotonic() + deadline_s
        try:
            for process in self.processes:
                process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {deadline_s} s: {self.ended()}") from None
        finally:
            self.kill()
        return self.ended()

    def ended(self) -> list[Ended]:
        return [
            Ended(process.returncode, *(self._log(i, kind).read_text() for kind in ("out", "err")))
            for i, process in enumerate(self.processes)
        ]

    def wait_for(self, condition, deadline_s: float = DEADLINE_S) -> None:
        """Wait until the condition holds; raise an AssertionError if a process ends or the time is up before."""
        until = time.monotonic() + deadline_s
        while not condition():
            if time.monotonic() > until or any(p.poll() is not None for p in self.processes):
                self.kill()
                raise AssertionError(f"condition not reached: {self.ended()}")
            time.sleep(0.005)

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def _log(self, index: int, kind: str) -> Path:
        return self.logs / f"{index}.{kind}"


def assert_codes(ended: list[Ended], codes: list[int]) -> None:
    """Assert the exit codes, showing the ends of the logs."""
    shown = "\n".join(f"--- {one.code}\n{one.out[-1000:]}\n{one.err[-5000:]}" for one in ended)
    assert [one.code for one in ended] == codes, shown


def environment_of(devices: int) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")]),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "XLA_FLAGS": " ".join(FLAGS),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def compile_cache() -> str:
    """Return the compile cache of this test session."""
    return jax.config.values["jax_compilation_cache_dir"]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def logged_lines(workdir: Path) -> int:
    path = workdir / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0
