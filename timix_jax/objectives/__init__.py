"""Objectives: the terms of the one summed loss, and the registry that builds them.

A new objective is one file with a frozen dataclass that inherits `base.Objective`, and one line in `OBJECTIVES`. The
loss of mixed images is not among them: it is made of a mixer and of `config.mix`, not of `config.loss.NAME`.
"""

import dataclasses
from typing import Any

from timix_jax.errors import UserError
from timix_jax.objectives.base import Forward, Objective
from timix_jax.objectives.contrastive import Contrastive
from timix_jax.objectives.pairs.pair_loss import DENSE_SOFTMAX, PairLoss
from timix_jax.objectives.passes import Pass
from timix_jax.objectives.patch_text import PatchTextAlignment

__all__ = ["OBJECTIVES", "Forward", "Objective", "Pass", "build_objective"]

OBJECTIVES: dict[str, type[Objective]] = {
    "itc": Contrastive,
    "pta": PatchTextAlignment,
}


def build_objective(name: str, /, *, pairs: PairLoss = DENSE_SOFTMAX, **options: Any) -> Objective:
    """The objective called `name`.

    Args:
      name: a key of `OBJECTIVES`.
      pairs: the loss over all image-text pairs; passed on to the objectives that have such a field.
      **options: the other fields of its class.

    Raises:
      UserError: an unknown name (the message lists the valid ones), or a value out of range.
    """
    if name not in OBJECTIVES:
        raise UserError(f"objective {name!r} is unknown; use one of {', '.join(OBJECTIVES)}")
    kind: type = OBJECTIVES[name]
    if any(field.name == "pairs" for field in dataclasses.fields(kind)):
        options["pairs"] = pairs
    return kind(**options)
