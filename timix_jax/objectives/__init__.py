"""Objectives: the terms of the one summed loss, and the registry that builds them.

A new objective is one file with a frozen dataclass that follows `base.Objective`, and one line in `OBJECTIVES`.
"""

from timix_jax.errors import UserError
from timix_jax.objectives.base import Forward, Objective
from timix_jax.objectives.contrastive import Contrastive
from timix_jax.objectives.mixed import MixedContrastive
from timix_jax.objectives.patch_text import PatchTextAlignment

__all__ = ["OBJECTIVES", "Forward", "Objective", "build_objective"]

OBJECTIVES: dict[str, type] = {
    "itc": Contrastive,
    "mix": MixedContrastive,
    "pta": PatchTextAlignment,
}


def build_objective(name: str, **options: object) -> Objective:
    """The objective called ``name`` with the fields of its class.

    Raises:
      UserError: an unknown name (the message lists the valid ones), or a value out of range.
    """
    if name not in OBJECTIVES:
        raise UserError(f"objective {name!r} is unknown; use one of {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name](**options)
