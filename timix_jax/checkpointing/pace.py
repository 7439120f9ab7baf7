"""A save in the background that rests between its pieces: the training step has the cores meanwhile.

On a CPU backend the step and the save share the cores, and the kernel's part of writing (the pages that a file takes
up) does not stand back as threads of a low priority do. Spread over three times the time it costs each step a third.
"""

import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

# The one name outside of Orbax's public interface; the documentation of the callback names it there.
from orbax.checkpoint._src.serialization.types import TransferPriority

_REST = 2.0  # seconds of rest for a second of work
_PIECE_BYTES = 32 << 20


class Pace:
    """Rests twice as long as the work before took, until somebody waits for its end. For one thread at a time.

    Args:
      longest_s: seconds of all rests together.
    """

    def __init__(self, longest_s: float) -> None:
        self._hurried = threading.Event()
        self._left = longest_s
        self._since = time.monotonic()

    def rest(self) -> None:
        """Call it after each piece of work."""
        begin = time.monotonic()
        self._hurried.wait(min(_REST * (begin - self._since), self._left))
        self._since = time.monotonic()
        self._left = max(0.0, self._left - (self._since - begin))

    def hurry(self) -> None:
        """Ends the rest that is being taken; there is none from now on."""
        self._hurried.set()


class _InPieces:
    """Orbax's `SerializationStatusCallback`: pieces of the state are written one after another."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._first = True

    def key_priority(self, keypath: Sequence[Any]) -> TransferPriority:
        """All in the background but for one array: where there is none such, Orbax warns at each save."""
        del keypath
        first, self._first = self._first, False
        return TransferPriority.SYNCHRONOUS if first else TransferPriority.ASYNCHRONOUS_PRIORITIZED

    def on_transfer_start(self, keypath: Sequence[Any]) -> None:
        """Nothing to do."""

    def on_transfer_end(self, keypath: Sequence[Any]) -> None:
        """Nothing to do."""

    def on_write_end(self, keypath: Sequence[Any]) -> None:
        """Of each array of a piece, in the thread that will write the next piece."""
        del keypath
        self._pace.rest()


def shares_the_cores(arrays: Iterable[jax.Array]) -> bool:
    """Whether the arrays are on one CPU device, which computes with the host's own cores.

    Of several devices each holds its copy of what is replicated, and copies of them all would be too much. With several
    processes, one that fails waits for the others' part of a save, and could not end their rests.
    """
    devices = {device for leaf in arrays for device in leaf.devices()}
    return len(devices) == 1 and next(iter(devices)).platform == "cpu"


def copied(state: Any) -> Any:
    """The tree's arrays in memory of their own: Orbax reads those it writes later when their turn comes."""
    return jax.block_until_ready(jax.device_put(state, may_alias=False))


def in_pieces(context: ocp.Context, pace: Pace) -> ocp.Context:
    """The context with which Orbax writes a state in pieces and rests between them."""
    context = ocp.Context(context)
    context.memory.transfer_concurrent_bytes = _PIECE_BYTES
    context.memory.serialization_status_callback = _InPieces(pace)
    return context
