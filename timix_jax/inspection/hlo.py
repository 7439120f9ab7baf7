"""What a compiled program sends between devices: the collectives in the text of its HLO."""

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
# The partitioner gives each of its collectives a channel; those that a program writes itself, in shard_map, share this.
_WRITTEN = "1"
# TPU programs hold a collective that overlaps with computation in pieces: a start, any number in between, and an end.
_BETWEEN = "async_collective_fusion"
_END = re.compile(r"^\s+(?:ROOT )?%?async-collective-done[\w.\-]* = .*calls=%?([\w.\-]+)")


class Collective(NamedTuple):
    """One collective instruction of a program.

    Attributes:
      kind: one of `KINDS`.
      bytes: of its result on one device, each time that it runs.
      runs: how often it runs in one execution of the program (loops with a known number of turns are counted).
      source: path of the operation that it comes from, `jit(train_step)/…`; the partitioner names it loosely.
      pairs: of a collective-permute, (from, to) device.
    """

    kind: str
    bytes: int
    runs: int
    source: str
    pairs: tuple[tuple[int, int], ...] = ()

    @property
    def mirrors(self) -> bool:
        """Whether device d sends to device n−1−d: the reversal of a batch that is cut over n devices."""
        total = len(self.pairs) - 1
        return bool(self.pairs) and all(a + b == total for a, b in self.pairs)

    @property
    def passes_on(self) -> bool:
        """Whether each device sends to the one beside it in a ring: all to d + 1, or all to d − 1."""
        devices = len({end for pair in self.pairs for end in pair})
        steps = {(to - source) % devices for source, to in self.pairs} if devices > 2 else set()
        return steps in ({1}, {devices - 1})


def collectives(text: str) -> list[Collective]:
    """All collectives of a compiled program, in the order of its text.

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
    """Computation → how often it runs; branches of a conditional each count as taken."""
    runs: dict[str, int] = {}

    def visit(name: str, times: int) -> None:
        runs[name] = runs.get(name, 0) + times
        for line in computations.get(name, ()):
            for role, called in _CALLED.findall(line):
                turns = _turns(line, computations) if role == "body" else 1
                for each in called.split(", "):
                    visit(each.lstrip("%"), times * turns)

    visit(entry, 1)
    return runs


def _turns(loop: str, computations: dict[str, list[str]]) -> int:
    """Turns of a while instruction: as the compiler notes them, else the one bound that its condition compares with.

    A loop of unknown length counts once.
    """
    known = _TRIPS.search(loop)
    if known:
        return int(known[1])
    condition = _CONDITION.search(loop)
    lines = computations.get(condition[1], []) if condition else []
    bounds = [int(match[1]) for line in lines if (match := _CONSTANT.search(line))]
    return bounds[0] if len(bounds) == 1 else 1


def _kind(operation: str) -> str | None:
    """The collective that an instruction is; the second half of an asynchronous pair is none."""
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
    # An asynchronous start holds its operands beside its results.
    if operation.startswith("all-reduce"):
        return sum(arrays)
    return max(arrays)


def _array_bytes(dtype: str, dimensions: str) -> int:
    bits = 8 if dtype == "pred" or dtype.startswith("f8") else int(re.sub(r"\D", "", dtype))
    sizes = [int(size) for size in dimensions.split(",") if size]
    return int(np.prod(sizes, dtype=np.int64)) * bits // 8
