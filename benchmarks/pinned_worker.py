"""A step in a process of its own, pinned to one core or not, which its parent runs in blocks over JSON lines."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def serve(steps: Callable[[int], object], report: Mapping[str, Any]) -> None:
    """Serve as the worker: send `report`, then run as many steps as each line asks for until input ends."""
    print(json.dumps(report), flush=True)
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        steps(int(line))
        seconds = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        print(json.dumps(seconds), flush=True)


class Worker:
    """A running worker. It sleeps between blocks, so that any number of workers can alternate on one core.

    Attributes:
      report: what the worker sent when it was ready.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        core: int | None,
        checkout: Path = ROOT,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Start `command`, single-threaded on `core` if given, and wait until it is ready.

        Raises:
          RuntimeError: it ended before; its error is on the terminal.
        """
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        threads = {} if core is None else dict.fromkeys(names, "1")
        path = os.pathsep.join(filter(None, [str(checkout), os.environ.get("PYTHONPATH")]))
        # Inherited by the libraries' threads: XLA starts one per core that it may use.
        pin = None if core is None else lambda: os.sched_setaffinity(0, {core})
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=checkout,
            env={**os.environ, **threads, "PYTHONPATH": path, **(env or {})},
            preexec_fn=pin,
        )
        self._command = command
        self.report = self._receive()

    def run(self, steps: int) -> dict[str, float]:
        """Run a block of `steps` steps and return its seconds: wall and cpu (all threads)."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        return self._receive()

    def close(self) -> None:
        """End the worker."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # libraries print too
                return json.loads(line)
        code = self._process.wait()
        raise RuntimeError(f"{' '.join(self._command)} ended with code {code}")
