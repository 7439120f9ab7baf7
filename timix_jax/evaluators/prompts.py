"""The prompts of classes, and classes whose prompts no model could tell apart."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from absl import logging

from timix_jax.data.records.schema import Record
from timix_jax.distributed import processes
from timix_jax.errors import UserError

if TYPE_CHECKING:
    from timix_jax.evaluators.base import EvaluationInputs

_SHOWN = 5  # groups of classes in the warning
_CURE = "give them other names, raise config.model.text.max_tokens, or train with a tokenizer that knows their letters"


@dataclasses.dataclass
class Prompts:
    """A source of texts only: example c holds the prompts of class c, in which `_` is a space."""

    name: str
    classes: Sequence[str]
    templates: Sequence[str]

    @property
    def annotated(self) -> np.ndarray:
        """Return no indices: the examples have no regions."""
        return np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, index: int) -> Record:
        name = self.classes[index]
        words = name.replace("_", " ").strip()  # as the labels of TFDS are read
        return Record(name, b"", tuple(text.replace("{}", words) for text in self.templates))


def merge_equal_classes(prompts: Prompts, inputs: EvaluationInputs) -> np.ndarray:
    """Number the classes so that those with the same tokens in all prompts share a number; a warning names them.

    Equal tokens have equal embeddings: none of such classes could ever be nearer to an image than the others.

    Args:
      prompts: of C different classes.
      inputs: the tokenizer and its `max_tokens`.

    Returns:
      int32 (C,), numbers from 0 on in the order of each one's first class.

    Raises:
      UserError: there are several classes, and all have the same tokens.
    """
    members: dict[bytes, list[int]] = {}
    for index in range(len(prompts)):
        tokens = inputs.tokenizer.encode(prompts[index].captions, inputs.max_tokens)
        # Not the tokens themselves: thousands of classes have eighty prompts each.
        members.setdefault(hashlib.sha256(tokens.tobytes()).digest(), []).append(index)
    number = np.zeros(len(prompts), np.int32)
    for count, group in enumerate(members.values()):
        number[group] = count
    groups = [group for group in members.values() if len(group) > 1]
    if not groups:
        return number
    shown = "; ".join(_equation([prompts.classes[i] for i in group]) for group in groups[:_SHOWN])
    more = f" and {len(groups) - _SHOWN} more" if len(groups) > _SHOWN else ""
    if len(members) == 1:
        raise UserError(
            f"{prompts.name}: the prompts of all {len(prompts)} classes have the same tokens ({shown}): {_CURE}"
        )
    if processes.is_first():
        logging.warning(
            "%s: classes whose prompts have the same tokens count as one, which leaves %d of %d: %s%s; to tell them"
            " apart, %s",
            *(prompts.name, len(members), len(prompts), shown, more, _CURE),
        )
    return number


def _equation(names: Sequence[str]) -> str:
    more = ["…"] if len(names) > _SHOWN else []
    return " = ".join([*map(repr, names[:_SHOWN]), *more])
