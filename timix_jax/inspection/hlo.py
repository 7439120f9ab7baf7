"""Collectives of a compiled program, read from the text of its HLO."""

import re
from typing import NamedTuple

import numpy as np

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "collective-permute", "all-to-all")

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (.*?)\s([a-z][\w\-]*)\(")
_CALLED = re.compile(
    r"(body|to_apply|calls|true_computation|false_computation|branch_computations)="
    r"\{?((?:%?[\w.\-]+(?:, )?)+)\}?"
)
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONSTANT = re.compile(r"= s32\[\]\S* constant\((\d+)\)")
_ARRAY = re.compile(r"\b(pred|[sufc]\d+|bf16|f8\w*)\[([\d,]*)\]")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_PAIRS = re.compile(r"source_target_pairs=\{([{}\d,]*)\}")
_CHANNEL = re.compile(r"channel_id=(\d+)")
# The partitioner gives each of its collectives a channel of its own; those written in shard_map share this one.
_WRITTEN = "1"
# TPU programs split a collective that overlaps with computation: a start, any number of steps, and an end.
_BETWEEN = "async_collective_fusion"
_END = re.compile(r"^\s+(?:ROOT )?%?async-collective-done[\w.\-]* = .*calls=%?([\w.\-]+)")


class Collective(NamedTuple):
    """One collective instruction of a program.

    Attributes:
      kind: one of `KINDS`.
      bytes: size of its result on one device, per run.
      runs: how often it runs per execution of the program, loops of known length multiplied.
      source: path of its operation, `jit(train_step)/…`; the partitioner names it loosely.
      pairs: (from, to) devices of a collective-permute.
    """

    kind: str
    bytes: int
    runs: int
    source: str
    pairs: tuple[tuple[int, int], ...] = ()

    @property
    def mirrors(self) -> bool:
        """Return True if device d sends to device n−1−d: the reversal of a batch split over n devices."""
        total = len(self.pairs) - 1
        return bool(self.pairs) and all(a + b == total for a, b in self.pairs)

    @property
    def is_ring_step(self) -> bool:
        """Return True if each device sends to its neighbour in a ring: all to d + 1, or all to d − 1."""
        devices = len({end for pair in self.pairs for end in pair})
        steps = {(to - source) % devices for source, to in self.pairs} if devices > 2 else set()
        return steps in ({1}, {devices - 1})


def collectives(text: str) -> list[Collective]:
    """Return the collectives of a compiled program in the order of its text.

    Args:
      text: `compiled.as_text()`.
    """
    computations, entry = _computations(text)
    runs = _runs(computations, entry)
    ends = {
        end[1] for lines in computations.values() for line in lines if (end := _END.match(line))
    }
    found: dict[str, Collective] = {}
    for name, lines in computations.items():
        for number, line in enumerate(lines):
            match = _INSTRUCTION.match(line)
            kind = match and _kind(match[2])
            if not (match and kind and runs.get(name)):
                continue
            source, channel = _OP_NAME.search(line), _CHANNEL.search(line)
            one = Collective(
                kind,
                _result_bytes(match[1], match[2]),
                runs[name],
                source[1] if source else "",
                _pairs(line),
            )
            key = channel[1] if channel else _WRITTEN
            if key == _WRITTEN:
                if name.startswith(_BETWEEN) or name in ends:
                    continue
                key = f"{name}:{number}"
            found[key] = max(found.get(key, one), one, key=lambda each: each.runs)
    return list(found.values())


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    computations: dict[str, list[str]] = {}
    entry, current = "", None
    for line in text.splitlines():
        head = _COMPUTATION.match(line)
        if head:
            current = computations.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif current is not None:
            current.append(line)
    return computations, entry


def _runs(computations: dict[str, list[str]], entry: str) -> dict[str, int]:
    """Return computation → how often it runs; every branch of a conditional counts as taken."""
    runs: dict[str, int] = {}

    def visit(name: str, times: int) -> None:
        runs[name] = runs.get(name, 0) + times
        for line in computations.get(name, ()):
            for role, called in _CALLED.findall(line):
                trips = _trip_count(line, computations) if role == "body" else 1
                for each in called.split(", "):
                    visit(each.lstrip("%"), times * trips)

    visit(entry, 1)
    return runs


def _trip_count(loop: str, computations: dict[str, list[str]]) -> int:
    """Return the trip count of a while loop: as the compiler notes it, or else the only bound in its condition.

    Loops of unknown length count once.
    """
    known = _TRIPS.search(loop)
    if known:
        return int(known[1])
    condition = _CONDITION.search(loop)
    lines = computations.get(condition[1], []) if condition else []
    bounds = [int(match[1]) for line in lines if (match := _CONSTANT.search(line))]
    return bounds[0] if len(bounds) == 1 else 1


def _kind(operation: str) -> str | None:
    """Return the collective that an instruction is; None for others and the second half of an asynchronous pair."""
    base = operation.removesuffix("-start")
    return base if base in KINDS else None


def _pairs(line: str) -> tuple[tuple[int, int], ...]:
    listed = _PAIRS.search(line)
    pairs = re.findall(r"\{(\d+),(\d+)\}", listed[1]) if listed else []
    return tuple((int(a), int(b)) for a, b in pairs)


def _result_bytes(shape: str, operation: str) -> int:
    arrays = [_array_bytes(*array) for array in _ARRAY.findall(shape)]
    if not operation.endswith("-start") or len(arrays) < 2:
        return sum(arrays)
    # The shape of an asynchronous start lists its operands next to its results.
    if operation.startswith("all-reduce"):
        return sum(arrays)
    return max(arrays)


def _array_bytes(dtype: str, dimensions: str) -> int:
    bits = 8 if dtype == "pred" or dtype.startswith("f8") else int(re.sub(r"\D", "", dtype))
    sizes = [int(size) for size in dimensions.split(",") if size]
    return int(np.prod(sizes, dtype=np.int64)) * bits // 8
