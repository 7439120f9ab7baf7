"""The step folders of one run: which are complete, which is the newest unharmed one, what is kept.

A folder `00001200` is complete when it has its sums (checksums.py); without them its save was
cut off. Only these folders and the writer's temporary ones are ever touched.
"""

from typing import NamedTuple

from absl import logging
from etils import epath

from timix_jax.checkpointing import checksums

_TEMPORARY = ".orbax-checkpoint-tmp"  # part of the name of a folder that is being written
_SHOWN = 3


class Latest(NamedTuple):
    """The newest unharmed step, if any, and what is newer than it but of no use.

    Attributes:
      step: None where no folder is complete and unharmed.
      broken: newer steps, damaged or unfinished.
      damaged: complete but damaged ones among these, readable; empty where there are none.
    """

    step: int | None
    broken: list[int]
    damaged: str


def step_path(directory: epath.PathLike, step: int) -> epath.Path:
    return epath.Path(directory) / f"{step:08d}"


def is_step(name: str) -> bool:
    return len(name) >= 8 and name.isdecimal()


def steps(directory: epath.Path) -> list[int]:
    """All steps, complete or not, ascending."""
    if not directory.is_dir():
        return []
    folders = (path for path in directory.iterdir() if is_step(path.name) and path.is_dir())
    return sorted(int(path.name) for path in folders)


def complete_steps(directory: epath.Path) -> list[int]:
    """The steps that have their sums, which may no longer hold; ascending."""
    return [s for s in steps(directory) if checksums.has_manifest(step_path(directory, s))]


def find_latest(directory: epath.Path) -> Latest:
    """The newest step whose files have their sums; each newer one is named in a warning."""
    latest, broken, damaged, warned = None, [], [], False
    for step in reversed(steps(directory)):
        path = step_path(directory, step)
        problems = checksums.problems(path)
        if not problems:
            latest = step
            break
        broken.append(step)
        warned = True
        logging.warning("checkpoint %s is not used: %s", path, listed(problems))
        if checksums.has_manifest(path):
            damaged.append(f"{path.name}: {listed(problems)}")
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
    """Deletes all but the last complete steps and the multiples of `keep_every`.

    Args:
      directory: of the step folders.
      keep_last: how many, at least 1.
      keep_every: in steps; None or 0 for none.
      broken: steps that are known to be damaged: neither counted nor kept.
    """
    complete = [step for step in complete_steps(directory) if step not in broken]
    kept = set(complete[-keep_last:])
    if keep_every:
        kept.update(step for step in complete if step % keep_every == 0)
    for step in set(steps(directory)) - kept:
        path = step_path(directory, step)
        # Without its sums a folder counts as unfinished, should this be cut off half-way.
        (path / checksums.MANIFEST_FILE).unlink(missing_ok=True)
        path.rmtree()
    delete_unfinished(directory)


def delete_unfinished(directory: epath.Path) -> None:
    """Deletes what is left of saves that were cut off or failed; none may be running."""
    for step in set(steps(directory)) - set(complete_steps(directory)):
        step_path(directory, step).rmtree()
    for path in _temporary(directory):
        path.rmtree()


def listed(problems: list[str]) -> str:
    """The first three problems in one line, and the count of the others."""
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
