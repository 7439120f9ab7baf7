"""Check that all processes see the same working folder and run the same mode and configuration."""

import secrets
import time
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from timix_jax.distributed import processes
from timix_jax.errors import UserError
from timix_jax.runtime.workdir import (
    check_folder,
    config_differences,
    reraise_workdir_write_errors,
)

_POLL_S = 0.5
_SHOWN_FIELDS = 5


def check_shared(workdir: epath.PathLike, *, timeout_s: float = 20) -> None:
    """Raise a UserError on all processes unless each sees in its `workdir` what the first one writes there.

    Call it from all processes. It leaves nothing behind.

    Args:
      workdir: The folder, which need not exist yet.
      timeout_s: Seconds that a network file system may take to show a new file.
    """
    if jax.process_count() == 1:
        return
    folder = epath.Path(workdir)
    created: list[epath.Path] = []

    def leave_mark() -> str:
        name = f".shared-{secrets.token_hex(8)}"
        check_folder(folder)
        with reraise_workdir_write_errors(folder):
            missing = folder
            while not missing.exists():
                created.append(missing)
                missing = missing.parent
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        return name

    name = processes.from_first(leave_mark)
    until = time.monotonic() + timeout_s
    while not (seen := (folder / name).exists()) and time.monotonic() < until:
        time.sleep(_POLL_S)
    answers = processes.gather([seen, str(folder)], timeout_s=timeout_s + 30)
    if processes.is_first():
        (folder / name).unlink(missing_ok=True)
        for path in created:
            path.rmdir()
    for process, (seen, path) in enumerate(answers):
        if not seen:
            raise UserError(
                f"--workdir={answers[0][1]} is not shared: process {process} does not see in its --workdir={path} what"
                " process 0 wrote there; give all processes one folder on storage that they share (NFS, gs://…)"
            )


def check_same_start(mode: str, processes_flag: int) -> None:
    """Raise a UserError on all processes unless all run this mode, with the same flags and number of devices.

    Call it from all processes. In different modes each would take the others' messages for its own; a process that
    expects more processes than process 0 is connected all the same.
    """
    if jax.process_count() == 1:
        return
    own = {"--mode": mode, "devices": jax.local_device_count()}
    if processes_flag:
        own["--processes"] = processes_flag
    first, *others = processes.gather(own)
    for process, theirs in enumerate(others, 1):
        if theirs != first:
            raise UserError(
                f"process {process} was started with {_listed(theirs)}, process 0 with {_listed(first)}: start all with"
                " the same --mode and --processes on the same number of devices"
            )


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


def check_same_config(config: Mapping[str, Any]) -> None:
    """Raise a UserError on all processes unless their configurations (flat) are equal; call it from all processes.

    Processes with different configurations would wait for one another, or train on nonsense.
    """
    if jax.process_count() == 1:
        return
    differences = config_differences(processes.from_first(lambda: dict(config)), config)
    for process, found in enumerate(processes.gather(differences[:_SHOWN_FIELDS])):
        if found:
            raise UserError(
                f"process {process} was started with another configuration than process 0 ({'; '.join(found)} in"
                f" process {process}): give all processes the same --config and overrides"
            )
