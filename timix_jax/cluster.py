"""Joining the other processes of a run: told by flags, or found out from the cluster."""

import os

import jax
from absl import logging

from timix_jax.errors import UserError

MODES = ("auto", "on", "off")

# What JAX says where it finds no cluster, and where it was used before it was asked to (a notebook).
_NO_CLUSTER = ("coordinator_address should be defined", "must be called before any JAX calls")


def join(mode: str, *, coordinator: str = "", processes: int = 0, process: int = 0) -> None:
    """Connects this process with the others of its run; to be called before anything uses a device.

    JAX knows the others itself on a Cloud TPU, under Slurm's ``srun`` (one process a GPU), under Open MPI, and on
    Kubernetes where the ``kubernetes`` package is installed.

    Args:
      mode: "auto": join a cluster where there is one; "on": its absence is an error, so that a pod never trains as
        many runs of one process; "off": one process, whatever is around it.
      coordinator: ``host:port`` of process 0 where nothing can be found out.
      processes: how many there are, with ``coordinator``.
      process: index of this one, with ``coordinator``.

    Raises:
      UserError: the flags contradict each other, or there is a cluster that cannot be joined.
    """
    if coordinator:
        if mode == "off":
            raise UserError(f"--distributed=off contradicts --coordinator={coordinator}: drop one")
        if not 0 <= process < processes:
            raise UserError(
                f"--processes={processes} --process={process}: with --coordinator give the number of processes and "
                "the index of this one, from 0"
            )
        jax.distributed.initialize(coordinator, processes, process)
        return
    if processes:
        raise UserError(f"--processes={processes} needs --coordinator=HOST:PORT of process 0")
    # Joined, a single task of srun would see only the first of its GPUs.
    alone = os.environ.get("SLURM_NTASKS") == "1"
    if mode == "off" or (mode == "auto" and alone):
        return
    try:
        jax.distributed.initialize()
    except (RuntimeError, ValueError) as error:
        cause = " ".join(str(error).split())
        found = not any(text in cause for text in _NO_CLUSTER)
        if mode == "on" or found:
            raise UserError(
                f"--distributed={mode}: the other processes cannot be joined ({cause[:300]}); give --coordinator, "
                "--processes and --process, or --distributed=off for a single process"
            ) from error
    else:
        logging.info("process %d of %d", jax.process_index(), jax.process_count())
