"""Objectives: the terms of the total loss, and the registry that builds them.

A new objective is one file with a frozen dataclass that inherits from `base.Objective`, and one line in `OBJECTIVES`;
its fields become `config.loss.NAME`. `views/` holds the inputs that differ from the clean batch, `pairs/` the loss over
all image-text pairs. May import the protocols of models, mixing, optim.schedule and parallel; not training or data.
"""

import dataclasses
from typing import Any

from timix_jax.errors import UserError
from timix_jax.objectives.base import Objective, Term, objectives_at
from timix_jax.objectives.captions import MoreCaptions
from timix_jax.objectives.contrastive import Contrastive
from timix_jax.objectives.cross_modal_cutmix import CrossModalCutMix
from timix_jax.objectives.features import CLEAN, Feature
from timix_jax.objectives.forward import Forward
from timix_jax.objectives.image_text_matching import ImageTextMatching
from timix_jax.objectives.masked_words import MaskedLanguage
from timix_jax.objectives.mixed import MixedContrastive
from timix_jax.objectives.pairs.loss import DENSE_SOFTMAX, PairLoss
from timix_jax.objectives.patch_text import PatchTextAlignment
from timix_jax.objectives.prefix_language import PrefixLanguage
from timix_jax.objectives.vocabulary import NOMINAL, Vocabulary

__all__ = [
    "CLEAN",
    "OBJECTIVES",
    "Feature",
    "Forward",
    "Objective",
    "Term",
    "build_objective",
    "objectives_at",
]

OBJECTIVES: dict[str, type[Objective]] = {
    "itc": Contrastive,
    "captions": MoreCaptions,
    "pta": PatchTextAlignment,
    "cmc": CrossModalCutMix,
    "itm": ImageTextMatching,
    "mlm": MaskedLanguage,
    "plm": PrefixLanguage,
    "mix": MixedContrastive,
}


def build_objective(
    name: str,
    /,
    *,
    pairs: PairLoss = DENSE_SOFTMAX,
    vocabulary: Vocabulary = NOMINAL,
    **options: Any,
) -> Objective:
    """Build the objective with this name.

    Args:
      name: a key of `OBJECTIVES`.
      pairs: the loss over all image-text pairs, for objectives with a field `pairs`.
      vocabulary: the tokenizer's ids, for objectives with a field `vocabulary`.
      **options: the other fields of the class.

    Raises:
      UserError: the name is unknown (the message lists the valid ones), or a value is out of range.
    """
    if name not in OBJECTIVES:
        raise UserError(f"objective {name!r} is unknown; use one of {', '.join(OBJECTIVES)}")
    kind: type = OBJECTIVES[name]
    fields = {field.name for field in dataclasses.fields(kind)}
    provided = {"pairs": pairs, "vocabulary": vocabulary}
    options |= {field: value for field, value in provided.items() if field in fields}
    return kind(**options)
