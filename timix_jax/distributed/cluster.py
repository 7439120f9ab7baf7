"""Connect the processes of a run, given by flags or detected from the cluster."""

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
from absl import logging

from timix_jax.errors import RUNTIME_ERROR_CODE, RunError, UserError

MODES = ("auto", "on", "off")
_SPARE_S = 30

# JAX's messages where it detects no cluster, and where it is already in use (a notebook).
_NO_CLUSTER = ("coordinator_address should be defined", "must be called before any JAX calls")


def join(
    mode: str,
    *,
    coordinator: str = "",
    processes: int = 0,
    process: int = 0,
    connect_timeout_s: int = 60,
    heartbeat_timeout_s: int = 60,
) -> None:
    """Connect this process with the others of its run; call it before anything uses a device.

    JAX detects the others itself on a Cloud TPU, under Slurm's `srun` (one process per GPU), under Open MPI, and on
    Kubernetes where the `kubernetes` package is installed. If the others do not come within `connect_timeout_s`, the
    process prints one line and exits with the code of a runtime error.

    Args:
      mode: "auto" joins a cluster if there is one; "on" makes its absence an error, so that a pod never trains as N
        runs of one process; "off" runs a single process in any environment.
      coordinator: `host:port` of process 0 where JAX cannot detect it.
      processes: Number of processes, with `coordinator`.
      process: Index of this process, with `coordinator`.
      connect_timeout_s: Seconds to wait for the others.
      heartbeat_timeout_s: Seconds of silence after which a process counts as dead, which ends the others.

    Raises:
      UserError: The flags contradict each other, or "on" finds no cluster.
      RunError: The cluster cannot be joined, or the port of process 0 is in use.
    """
    if coordinator:
        if mode == "off":
            raise UserError(f"--distributed=off contradicts --coordinator={coordinator}: drop one")
        if not 0 <= process < processes:
            raise UserError(
                f"--processes={processes} --process={process}: with --coordinator give the number of processes and "
                "the index of this one, from 0"
            )
        port = _port(coordinator)
        if process == 0:
            _check_free(coordinator, port)
        others = (
            f"process {process} waited --connect_timeout={connect_timeout_s} s at --coordinator={coordinator} for all"
            f" --processes={processes}: start all of them, give more time, or correct --coordinator or --processes"
        )
        try:
            with _time_limit(connect_timeout_s, others):
                _initialize(connect_timeout_s, heartbeat_timeout_s, coordinator, processes, process)
        except RuntimeError as error:
            cause = " ".join(str(error).split())[:300]
            raise RunError(
                f"--coordinator={coordinator}: process {process} of {processes} cannot join the others ({cause}); stop"
                " all of them and start them again"
            ) from error
        return
    if processes:
        raise UserError(f"--processes={processes} needs --coordinator=HOST:PORT of process 0")
    # Joined, a single task of srun would see only the first of its GPUs.
    single_task = os.environ.get("SLURM_NTASKS") == "1"
    if mode == "off" or (mode == "auto" and single_task):
        return
    others = (
        f"not all processes of the cluster came within --connect_timeout={connect_timeout_s} s: start all of them, give"
        " more time, name them by --coordinator and --processes, or give --distributed=off for a single process"
    )
    try:
        with _time_limit(connect_timeout_s, others):
            _initialize(connect_timeout_s, heartbeat_timeout_s)
    except (RuntimeError, ValueError) as error:
        cause = " ".join(str(error).split())
        found = not any(text in cause for text in _NO_CLUSTER)
        if mode == "on" or found:
            raise (RunError if found else UserError)(
                f"--distributed={mode}: the other processes cannot be joined ({cause[:300]}); give --coordinator, "
                "--processes and --process, or --distributed=off for a single process"
            ) from error
    else:
        logging.info("process %d of %d", jax.process_index(), jax.process_count())


def in_slurm_job() -> bool:
    """Return True in a job of Slurm, where JAX waits for as many processes as the job has tasks."""
    return "SLURM_JOB_ID" in os.environ


def _port(coordinator: str) -> int:
    """Return the port of `"host:1234"`; an IPv6 address is in brackets."""
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(
            f"--coordinator={coordinator}: give HOST:PORT of process 0, such as 10.0.0.1:12355"
        )
    return int(port)


def _check_free(coordinator: str, port: int) -> None:
    """Raise a RunError if another program listens at the port, also where JAX could share it."""
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise RunError(
            f"--coordinator={coordinator}: process 0 cannot listen at port {port}"
            f" ({os.strerror(error.errno or 0)}); stop what uses it, or give all processes another port"
        ) from error


def _initialize(connect_timeout_s: int, heartbeat_timeout_s: int, *address: Any) -> None:
    initialize: Callable[..., None] = jax.distributed.initialize
    initialize(
        *address,
        initialization_timeout=connect_timeout_s + _SPARE_S,
        heartbeat_timeout_seconds=heartbeat_timeout_s,
    )


@contextlib.contextmanager
def _time_limit(seconds: float, message: str) -> Iterator[None]:
    """End the process with one line after `seconds`: JAX's own timeout aborts it from C++, with a stack trace."""

    def give_up() -> None:
        print(f"error: {message}", file=sys.stderr, flush=True)
        os._exit(RUNTIME_ERROR_CODE)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
