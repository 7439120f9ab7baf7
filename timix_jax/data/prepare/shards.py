"""Writing one output shard, and recognizing later that it is finished.

A finished shard has a receipt `.prepare/SHARD.json` with its summary and the fingerprint of its
inputs. It is written after the shard, so an interruption at any moment only leaves work to repeat.
"""

import collections
import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from timix_jax.data.prepare.cleaning import clean
from timix_jax.data.prepare.side_keys import Matches
from timix_jax.data.prepare.tasks import (
    READ_ERROR,
    Note,
    Problem,
    ShardTask,
    describe,
)
from timix_jax.data.records.manifest import ShardSummary, sha256_file
from timix_jax.data.records.writer import RecordWriter
from timix_jax.runtime.atomic_write import atomic_write_bytes

STATE_FOLDER = ".prepare"
NAMED_PER_REASON = 20


class Tally(NamedTuple):
    """Counts for one shard or several; the last three map a reason to (count, first few)."""

    sizes: tuple[int, int, int, int] | None = None  # min width, min height, max width, max height
    reencoded: int = 0
    skipped: dict[str, tuple[int, list[str]]] = {}  # noqa: RUF012 - never mutated
    dropped: dict[str, tuple[int, list[str]]] = {}  # noqa: RUF012
    noted: dict[str, tuple[int, list[str]]] = {}  # noqa: RUF012


class Receipt(NamedTuple):
    """A finished shard.

    `matches` maps keys of the side file to the examples that they fit; None: written by an earlier
    version, which did not store them.
    """

    summary: ShardSummary
    tally: Tally
    matches: dict[str, str] | None


def merge_tallies(tallies: Iterable[Tally]) -> Tally:
    """Add up counts, keeping the first `NAMED_PER_REASON` names for each reason."""
    total = Tally()
    for tally in tallies:
        sizes = [s for s in (total.sizes, tally.sizes) if s]
        bounds = tuple(zip(*sizes, strict=True))
        total = Tally(
            (min(bounds[0]), min(bounds[1]), max(bounds[2]), max(bounds[3])) if sizes else None,
            total.reencoded + tally.reencoded,
            _merge_reasons(total.skipped, tally.skipped),
            _merge_reasons(total.dropped, tally.dropped),
            _merge_reasons(total.noted, tally.noted),
        )
    return total


def _merge_reasons(
    a: dict[str, tuple[int, list[str]]], b: dict[str, tuple[int, list[str]]]
) -> dict[str, tuple[int, list[str]]]:
    empty: tuple[int, list[str]] = (0, [])
    return {
        reason: (
            a.get(reason, empty)[0] + b.get(reason, empty)[0],
            (a.get(reason, empty)[1] + b.get(reason, empty)[1])[:NAMED_PER_REASON],
        )
        for reason in sorted({*a, *b})
    }


def _tally_problems(problems: Iterable[Problem | Note]) -> dict[str, tuple[int, list[str]]]:
    named = collections.defaultdict(list)
    for problem in problems:
        named[problem.reason].append(describe(problem))
    return {reason: (len(n), n[:NAMED_PER_REASON]) for reason, n in sorted(named.items())}


def write_shard(
    path: Path, task: ShardTask, max_size: int | None, progress: Callable[[int], None]
) -> Receipt:
    """Read, clean and write one shard and its receipt; none if something could not be read now.

    Args:
      path: the shard.
      task: its inputs.
      max_size: see `clean`.
      progress: called with the number of examples processed since the last call.

    Raises:
      UserError: a key of the side file fits several examples.
    """
    states = task.states()  # taken first, so that inputs changed meanwhile are read again
    problems: list[Problem] = []
    notes: list[Note] = []
    matches = Matches()
    sizes: list[tuple[int, int]] = []
    reencoded = 0
    with RecordWriter(path) as writer:
        for item in task.items(states):
            if isinstance(item, Note):
                notes.append(item)
                continue
            progress(1)
            if isinstance(item, Problem):
                problems.append(item)
                continue
            matches.add(item.matches)
            cleaned = clean(item, max_size)
            problems.extend(cleaned.problems)
            if cleaned.record is None:
                continue
            writer.write(cleaned.record)
            sizes.append(cleaned.size)
            reencoded += cleaned.reencoded
    tally = Tally(
        _size_bounds(sizes),
        reencoded,
        _tally_problems(p for p in problems if p.skipped),
        _tally_problems(p for p in problems if not p.skipped),
        _tally_problems(notes),
    )
    receipt = {
        "fingerprint": task.fingerprint(states),
        "max_size": max_size,
        "summary": dataclasses.asdict(writer.summary),
        "tally": tally._asdict(),
        "matches": matches.examples,
    }
    if READ_ERROR not in tally.skipped:
        atomic_write_bytes(_receipt_path(path), json.dumps(receipt).encode())
    return Receipt(writer.summary, tally, matches.examples)


def _size_bounds(sizes: list[tuple[int, int]]) -> tuple[int, int, int, int] | None:
    if not sizes:
        return None
    widths, heights = zip(*sizes, strict=True)
    return min(widths), min(heights), max(widths), max(heights)


def finished_shard(path: Path, task: ShardTask, max_size: int | None) -> Receipt | None:
    """Return the receipt of a shard that is intact and made of the same inputs, else None."""
    try:
        stored = json.loads(_receipt_path(path).read_bytes())
        receipt = _parse_receipt(stored)
        fingerprint = task.fingerprint(task.states())
        same = (stored["fingerprint"], stored["max_size"]) == (fingerprint, max_size)
        return receipt if same and sha256_file(path) == receipt.summary.sha256 else None
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
    ):  # no receipt or a damaged one: write the shard again
        return None


def _receipt_path(shard: Path) -> Path:
    return shard.parent / STATE_FOLDER / f"{shard.name}.json"


def _parse_receipt(stored: dict[str, Any]) -> Receipt:
    summary, tally = dict(stored["summary"]), dict(stored["tally"])
    summary["annotated"] = tuple((index, hashed) for index, hashed in summary["annotated"])
    tally["sizes"] = tally["sizes"] and tuple(tally["sizes"])
    for field in ("skipped", "dropped", "noted"):
        entries = tally.get(field, {})  # receipts of earlier versions have no "noted"
        tally[field] = {reason: (count, named) for reason, (count, named) in entries.items()}
    matches = stored.get("matches")
    matches = None if matches is None else dict(matches)
    return Receipt(ShardSummary(**summary), Tally(**tally), matches)
