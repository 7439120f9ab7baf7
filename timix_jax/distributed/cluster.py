"""Joining the other processes of a run: told by flags, or found out from the cluster."""

import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import jax
from absl import logging

from timix_jax.distributed import roll_call
from timix_jax.errors import FAULT_CODE, RunError, UserError

MODES = ("auto", "on", "off")
_SPARE_S = 30

# What JAX says where it finds no cluster, and where it was used before it was asked to (a notebook).
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
    """Connects this process with the others of its run; to be called before anything uses a device.

    JAX knows the others itself on a Cloud TPU, under Slurm's `srun` (one process a GPU), under Open MPI, and on
    Kubernetes where the `kubernetes` package is installed.

    Args:
      mode: "auto": join a cluster where there is one; "on": its absence is an error, so that a pod never trains as
        many runs of one process; "off": one process, whatever is around it.
      coordinator: `host:port` of process 0 where nothing can be found out.
      processes: how many there are, with `coordinator`.
      process: index of this one, with `coordinator`.
      connect_timeout_s: how long to wait for the others.
      heartbeat_timeout_s: how long after its last sign of life a process counts as dead, which ends the others.

    Raises:
      UserError: the flags contradict each other, or "on" finds no cluster.
      RunError: there is a cluster, and it cannot be joined.
    """
    if coordinator:
        if mode == "off":
            raise UserError(f"--distributed=off contradicts --coordinator={coordinator}: drop one")
        if not 0 <= process < processes:
            raise UserError(
                f"--processes={processes} --process={process}: with --coordinator give the number of processes and "
                "the index of this one, from 0"
            )
        roll_call.call_roll(coordinator, processes, process, timeout_s=connect_timeout_s)
        _initialize(connect_timeout_s, heartbeat_timeout_s, coordinator, processes, process)
        return
    if processes:
        raise UserError(f"--processes={processes} needs --coordinator=HOST:PORT of process 0")
    # Joined, a single task of srun would see only the first of its GPUs.
    alone = os.environ.get("SLURM_NTASKS") == "1"
    if mode == "off" or (mode == "auto" and alone):
        return
    try:
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


def _initialize(connect_timeout_s: int, heartbeat_timeout_s: int, *address: Any) -> None:
    """JAX's own joining, which ends the process without a Python error when its time is up: hence the timer."""

    def give_up() -> None:
        print(
            f"error: not all processes have come within --connect_timeout={connect_timeout_s} s; start all of them, or"
            " give more time",
            file=sys.stderr,
            flush=True,
        )
        os._exit(FAULT_CODE)

    initialize: Callable[..., None] = jax.distributed.initialize
    timer = threading.Timer(connect_timeout_s, give_up)
    timer.daemon = True
    timer.start()
    try:
        initialize(
            *address,
            initialization_timeout=connect_timeout_s + _SPARE_S,
            heartbeat_timeout_seconds=heartbeat_timeout_s,
        )
    finally:
        timer.cancel()
