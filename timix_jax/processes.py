"""What the processes of one run tell one another; with a single process, nothing is sent."""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from timix_jax.errors import UserError


def is_first() -> bool:
    """True on the process that writes what is written once."""
    return jax.process_index() == 0


def gather_flags(flag: bool) -> list[bool]:
    """The flag of each process, on all of them; a collective, to be called by all."""
    if jax.process_count() == 1:
        return [flag]
    return [bool(each) for each in multihost_utils.process_allgather(np.int32(flag))]


def from_first(compute: Callable[[], Any]) -> Any:
    """What ``compute`` (JSON) gives on the first process, on all of them; to be called by all.

    Raises:
      UserError: ``compute`` raised one, or an OSError, on the first process.
    """
    if jax.process_count() == 1:
        return compute()
    answer: dict[str, Any] = {}
    if is_first():
        try:
            answer = {"value": compute()}
        except (UserError, OSError) as error:  # sent, or the others would wait for ever
            answer = {"error": str(error)}
    text = np.frombuffer(json.dumps(answer).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(text.size)))
    sent = multihost_utils.broadcast_one_to_all(text if is_first() else np.zeros(size, np.uint8))
    answer = json.loads(np.asarray(sent).astype(np.uint8).tobytes())
    if "error" in answer:
        raise UserError(answer["error"])
    return answer["value"]
