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
from timix_jax.data.prepare.tasks import Problem, ShardTask, replace_lone_surrogates
from timix_jax.data.records.manifest import ShardSummary, sha256_file
from timix_jax.data.records.writer import RecordWriter
from timix_jax.runtime.atomic_write import atomic_write_bytes

STATE_FOLDER = ".prepare"
NAMED_PER_REASON = 20


class Tally(NamedTuple):
    """Counts for one shard or several; `skipped` and `dropped` map a reason to (count, first few)."""

    sizes: tuple[int, int, int, int] | None = None  # min width, min height, max width, max height
    reencoded: int = 0
    skipped: dict[str, tuple[int, list[str]]] = {}  # noqa: RUF012 - never mutated
    dropped: dict[str, tuple[int, list[str]]] = {}  # noqa: RUF012


class Receipt(NamedTuple):
    """A finished shard."""

    summary: ShardSummary
    tally: Tally


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


def _tally_problems(problems: Iterable[Problem]) -> dict[str, tuple[int, list[str]]]:
    named = collections.defaultdict(list)
    for problem in problems:
        named[problem.reason].append(
            replace_lone_surrogates(f"{problem.key}: {problem.detail}").removesuffix(": ")
        )
    return {reason: (len(n), n[:NAMED_PER_REASON]) for reason, n in sorted(named.items())}


def write_shard(
    path: Path, task: ShardTask, max_size: int | None, progress: Callable[[int], None]
) -> Receipt:
    """Read, clean and write one shard and its receipt.

    Args:
      path: the shard.
      task: its inputs.
      max_size: see `clean`.
      progress: called with the number of examples processed since the last call.
    """
    fingerprint = task.fingerprint()  # taken first, so that inputs changed meanwhile are read again
    problems: list[Problem] = []
    sizes: list[tuple[int, int]] = []
    reencoded = 0
    with RecordWriter(path) as writer:
        for item in task.items():
            progress(1)
            if isinstance(item, Problem):
                problems.append(item)
                continue
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
    )
    receipt = {
        "fingerprint": fingerprint,
        "max_size": max_size,
        "summary": dataclasses.asdict(writer.summary),
        "tally": tally._asdict(),
    }
    atomic_write_bytes(_receipt_path(path), json.dumps(receipt).encode())
    return Receipt(writer.summary, tally)


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
        same = (stored["fingerprint"], stored["max_size"]) == (task.fingerprint(), max_size)
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
    for field in ("skipped", "dropped"):
        tally[field] = {reason: (count, named) for reason, (count, named) in tally[field].items()}
    return Receipt(ShardSummary(**summary), Tally(**tally))
