"""Find and delete the step folders of one run.

A folder `00001200` is complete when it has its manifest (checksums.py); without one its save was interrupted. Only
these folders and the writer's temporary ones are ever touched.
"""

from typing import NamedTuple

from absl import logging
from etils import epath

from timix_jax.checkpointing import checksums

_TEMPORARY = ".orbax-checkpoint-tmp"  # part of the name of a folder that is being written
_SHOWN = 3
_LISTINGS = 20  # a training saves far less often than a checkpoint is verified


class Latest(NamedTuple):
    """The newest valid step and the unusable steps after it.

    Attributes:
      step: None if no folder is complete and undamaged.
      broken: Newer steps that are damaged or unfinished.
      damaged: Readable list of those that are complete but damaged; empty if there are none.
    """

    step: int | None
    broken: list[int]
    damaged: str


def step_path(directory: epath.PathLike, step: int) -> epath.Path:
    """Return the folder of a step."""
    return epath.Path(directory) / f"{step:08d}"


def is_step(name: str) -> bool:
    """Return True for the name of a step folder."""
    return len(name) >= 8 and name.isdecimal()


def steps(directory: epath.Path) -> list[int]:
    """List all steps, complete or not, in ascending order."""
    if not directory.is_dir():
        return []
    folders = (path for path in directory.iterdir() if is_step(path.name) and path.is_dir())
    return sorted(int(path.name) for path in folders)


def complete_steps(directory: epath.Path) -> list[int]:
    """List the steps that have a manifest, which their files may no longer match, in ascending order."""
    return [s for s in steps(directory) if checksums.has_manifest(step_path(directory, s))]


def find_latest(directory: epath.Path) -> Latest:
    """Return the newest step whose files match their checksums; warn about each newer one.

    A training that runs there may delete all steps that were listed: the list is then read again.
    """
    for _ in range(_LISTINGS):
        listed = steps(directory)
        found = _newest_of(directory, listed)
        if found.step is not None or steps(directory) == listed:
            break
    return found


def _newest_of(directory: epath.Path, listed: list[int]) -> Latest:
    latest, broken, damaged, warned = None, [], [], False
    for step in reversed(listed):
        path = step_path(directory, step)
        problems = checksums.problems(path)
        if not problems:
            latest = step
            break
        if not path.is_dir():
            continue  # deleted since it was listed
        broken.append(step)
        warned = True
        logging.warning("checkpoint %s is not used: %s", path, describe(problems))
        if checksums.has_manifest(path):
            damaged.append(f"{path.name}: {describe(problems)}")
    for path in _temporary(directory):
        if latest is None or int(path.name.partition(_TEMPORARY)[0]) > latest:
            warned = True
            logging.warning("checkpoint %s is not used: the save was not finished", path)
    if warned and latest is not None:
        logging.warning("checkpoint %s is used instead", step_path(directory, latest))
    return Latest(latest, broken, "; ".join(damaged))


def delete_old(
    directory: epath.Path, *, keep_last: int, keep_every: int | None, broken: set[int]
) -> None:
    """Delete all steps but the last complete ones and the multiples of `keep_every`.

    Args:
      directory: The folder that holds the step folders.
      keep_last: Number of complete steps to keep, at least 1.
      keep_every: A number of steps; None or 0 for none.
      broken: Steps known to be damaged, which are neither counted nor kept.
    """
    complete = [step for step in complete_steps(directory) if step not in broken]
    kept = set(complete[-keep_last:])
    if keep_every:
        kept.update(step for step in complete if step % keep_every == 0)
    for step in set(steps(directory)) - kept:
        path = step_path(directory, step)
        # Without its manifest the folder counts as unfinished if this is interrupted half-way.
        (path / checksums.MANIFEST_FILE).unlink(missing_ok=True)
        path.rmtree()
    delete_unfinished(directory)


def delete_unfinished(directory: epath.Path) -> None:
    """Delete the remains of interrupted and failed saves; call it while no save is running."""
    for step in set(steps(directory)) - set(complete_steps(directory)):
        step_path(directory, step).rmtree()
    for path in _temporary(directory):
        path.rmtree()


def describe(problems: list[str]) -> str:
    """Return the first three problems in one line, and the number of the others."""
    more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return "; ".join(problems[:_SHOWN]) + more


def _temporary(directory: epath.Path) -> list[epath.Path]:
    if not directory.is_dir():
        return []
    return [
        path
        for path in directory.iterdir()
        if is_step(path.name.partition(_TEMPORARY)[0]) and _TEMPORARY in path.name and path.is_dir()
    ]
