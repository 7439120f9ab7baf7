"""The engine: writes shard tasks to a folder, and resumes after an interruption."""

import contextlib
import fcntl
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

from timix_jax.data.prepare.pool import map_shards
from timix_jax.data.prepare.shards import (
    NAMED_PER_REASON,
    STATE_FOLDER,
    Receipt,
    Tally,
    finished_shard,
    merge_tallies,
    write_shard,
)
from timix_jax.data.prepare.side_keys import Matches
from timix_jax.data.prepare.tasks import READ_ERROR, ShardTask, shown
from timix_jax.data.records.manifest import MANIFEST, shard_name, write_manifest
from timix_jax.errors import UserError
from timix_jax.runtime.atomic_write import atomic_write_bytes


class _Job(NamedTuple):
    path: Path
    task: ShardTask
    max_size: int | None


def _check_shard(job: _Job, progress: Callable[[int], None]) -> Receipt | None:
    receipt = finished_shard(job.path, job.task, job.max_size)
    progress(1)
    return receipt


def _write_shard(job: _Job, progress: Callable[[int], None]) -> Receipt:
    return write_shard(job.path, job.task, job.max_size, progress)


def prepare(
    tasks: Sequence[ShardTask],
    *,
    out: Path,
    name: str,
    command: Mapping[str, Any],
    max_size: int | None = None,
    workers: int = 1,
    side_keys: Iterable[str] = (),
) -> dict[str, Any]:
    """Write one shard per task, then the manifest. The output does not depend on `workers`.

    Finished shards of an earlier run of the same command are kept if their inputs are unchanged.

    Args:
      tasks: at least one task.
      out: the folder; absent, empty, or written by the same command.
      name: name of the data set, used in the file names.
      command: what identifies the work (JSON values); kept in the folder and the manifest.
      max_size: longest side of a stored image in pixels; larger ones are shrunk.
      workers: number of processes.
      side_keys: all keys of the side file; the manifest counts those that fit no example.

    Returns:
      The manifest.

    Raises:
      UserError: the folder belongs to another command, another process is writing to it, the inputs
        of a finished data set have changed, an input cannot be read now, a key of the side file fits
        several examples, or no example was usable.
    """
    command = {**command, "max_size": max_size, "num_shards": len(tasks)}
    with _claim_folder(out, command):
        jobs = [
            _Job(out / shard_name(name, index, len(tasks)), task, max_size)
            for index, task in enumerate(tasks)
        ]
        receipts = _finished_receipts(jobs, workers)
        todo = [index for index, receipt in enumerate(receipts) if receipt is None]
        if (out / MANIFEST).exists() and todo:
            raise UserError(
                f"{out}: is a finished data set, but {len(todo)} of its {len(jobs)} shards "
                f"({jobs[todo[0]].path.name}, …) or their inputs have changed since; "
                "give another --out, or delete the folder to start over"
            )
        if len(todo) < len(jobs):
            logging.info("%s: keeping %d of %d shards", out, len(jobs) - len(todo), len(jobs))
        matches = Matches()
        for receipt in filter(None, receipts):
            matches.add((receipt.matches or {}).items())
        sizes = [tasks[i].size for i in todo]
        written = map_shards(
            _write_shard,
            [jobs[i] for i in todo],
            workers=workers,
            total=None if None in sizes else sum(filter(None, sizes)),
            title=name,
            on_result=lambda receipt: matches.add((receipt.matches or {}).items()),
        )
        for index, receipt in zip(todo, written, strict=True):
            receipts[index] = receipt
        done = [receipt for receipt in receipts if receipt is not None]
        known = all(receipt.matches is not None for receipt in done)
        unmatched = [key for key in side_keys if known and key not in matches.examples]
        return _write_manifest(out, name, command, done, unmatched)


def _finished_receipts(jobs: Sequence[_Job], workers: int) -> list[Receipt | None]:
    if not any((jobs[0].path.parent / STATE_FOLDER).glob("*.array_record.json")):
        return [None] * len(jobs)
    return map_shards(
        _check_shard, jobs, workers=workers, total=len(jobs), title="checking", unit="shards"
    )


def _write_manifest(
    out: Path,
    name: str,
    command: Mapping[str, Any],
    receipts: Sequence[Receipt],
    unmatched: list[str],
) -> dict[str, Any]:
    tally = merge_tallies(receipt.tally for receipt in receipts)
    if READ_ERROR in tally.skipped:
        count, named = tally.skipped[READ_ERROR]
        more = f" (and {count - 1} more)" if count > 1 else ""
        raise UserError(
            f"--out {out}: not finished, cannot read {named[0]}{more}; repair or leave out what cannot be read, then "
            "the same command continues"
        )
    if not any(receipt.summary.examples for receipt in receipts):
        reasons = "; ".join(
            f"{count} {reason} ({named[0]})"
            for reason, (count, named) in (tally.skipped | tally.dropped).items()
        )
        for receipt in receipts:
            (out / receipt.summary.file).unlink()
        shutil.rmtree(out / STATE_FOLDER)
        with contextlib.suppress(OSError):  # keep the folder if the user put something into it
            out.rmdir()
        raise UserError(f"--out {out}: not written, no usable example: {reasons or 'no input'}")
    return write_manifest(
        out,
        name,
        [receipt.summary for receipt in receipts],
        image_sizes=_size_entries(tally),
        reencoded=tally.reencoded,
        skipped=_reason_entries(tally.skipped),
        dropped=_reason_entries(tally.dropped),
        noted=_reason_entries(tally.noted | _note_unmatched(unmatched)),
        command=dict(command),
    )


def _note_unmatched(keys: list[str]) -> dict[str, tuple[int, list[str]]]:
    if not keys:
        return {}
    named = [shown(key) for key in keys[:NAMED_PER_REASON]]
    return {"region key that fits no example": (len(keys), named)}


def _size_entries(tally: Tally) -> dict[str, int]:
    names = ("min_width", "min_height", "max_width", "max_height")
    return dict(zip(names, tally.sizes or (), strict=True))


def _reason_entries(reasons: Mapping[str, tuple[int, list[str]]]) -> dict[str, Any]:
    return {reason: {"count": c, "first": named} for reason, (c, named) in reasons.items()}


@contextlib.contextmanager
def _claim_folder(out: Path, command: Mapping[str, Any]) -> Iterator[None]:
    """Reserve the folder for this command; a lock keeps out a second process running it."""
    state = out / STATE_FOLDER
    stored = state / "command.json"
    if out.exists():
        _check_same_command(out, stored, command)
    try:
        state.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be created: {error.strerror}") from error
    with (state / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"--out {out}: another prepare is writing here; wait for it") from error
        atomic_write_bytes(stored, json.dumps(command, indent=2).encode())
        for leftover in (*out.glob("*.tmp"), *state.glob("*.tmp")):
            leftover.unlink()
        yield


def _check_same_command(out: Path, stored: Path, command: Mapping[str, Any]) -> None:
    if not out.is_dir():
        raise UserError(f"--out {out}: is a file; name a folder")
    if not stored.exists():
        # A run stopped before it stored its command leaves only an empty state folder.
        if any(path.name != STATE_FOLDER for path in out.iterdir()):
            raise UserError(
                f"--out {out}: not empty and not created by prepare; give another folder"
            )
        return
    before = _read_command(out, stored)
    for field in sorted({*before, *command}):
        old, new = before.get(field), command.get(field)
        if old != new:
            raise UserError(
                f"--out {out}: was started with {field} = {old!r}, this command has {new!r}; "
                "give another --out or delete the folder"
            )


def _read_command(out: Path, stored: Path) -> dict[str, Any]:
    try:
        command = json.loads(stored.read_bytes())
    except OSError as error:
        raise UserError(f"--out {out}: {stored} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError):
        command = None
    if not isinstance(command, dict):
        raise UserError(
            f"--out {out}: {stored} is damaged; delete the folder {out} to start over, or give another --out"
        )
    return command
