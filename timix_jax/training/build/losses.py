"""`config.loss` and `config.contrastive`: the terms of the one summed loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from timix_jax.data.tokenizers import Tokenizer
from timix_jax.errors import UserError, error_prefix
from timix_jax.models.protocols import ImageTextModel
from timix_jax.objectives import Objective, build_objective, objectives_at
from timix_jax.objectives.pairs.kinds import loss_kind
from timix_jax.objectives.pairs.loss import PairLoss
from timix_jax.objectives.pairs.sweep import Method, PairReduction
from timix_jax.objectives.vocabulary import NOMINAL, Vocabulary
from timix_jax.parallel.layout import Layout
from timix_jax.training.build.mix import build_clean_successor, build_mix

if TYPE_CHECKING:
    from timix_jax.training.build.settings import Settings

_ARTICLES = ("a", "an", "the")


@dataclasses.dataclass(frozen=True)
class LossSettings:
    """`config.loss`; `terms` maps the name of each objective to its fields, the weight included."""

    terms: Mapping[str, Mapping[str, Any]]

    @classmethod
    def read(cls, config: ConfigDict) -> LossSettings:
        """Read the group."""
        return cls(config.loss.to_dict())


@dataclasses.dataclass(frozen=True)
class ContrastiveSettings:
    """`config.contrastive`: the kind of loss over all image-text pairs, and how the pairs are traversed."""

    loss: str
    method: Method
    chunk: int

    @classmethod
    def read(cls, config: ConfigDict) -> ContrastiveSettings:
        """Read the group."""
        return cls(**config.contrastive)


def build_pair_loss(contrastive: ContrastiveSettings, layout: Layout | None) -> PairLoss:
    """Build the loss over all image-text pairs on the mesh of `layout`."""
    with error_prefix("config."):
        mesh = layout.mesh if layout else None
        reduction = PairReduction(contrastive.method, contrastive.chunk, mesh)
        return PairLoss(loss_kind(contrastive.loss), reduction)


def build_objectives(
    settings: Settings,
    model: ImageTextModel,
    layout: Layout | None,
    to_steps: Callable[..., int],
    separators: tuple[int, ...] = (),
    vocabulary: Vocabulary = NOMINAL,
) -> list[Objective]:
    """Build the terms with a weight above 0, and that of mixed images if there is a mixer.

    Where mixed images take the place of the clean ones, their loss takes that of the clean batch (ITC), which
    continues with its weight when mixing ends. `separators` are the token ids of `config.mix.separators`.
    """
    pairs = build_pair_loss(settings.contrastive, layout)
    mix = build_mix(settings.mix, model, pairs, to_steps, separators)
    replaces = settings.mix.replaces
    objectives: list[Objective] = []
    for name, fields in settings.loss.terms.items():
        if fields["weight"] == 0 or (replaces and name == "itc"):
            continue
        arguments = {
            key: to_steps(value, field=f"config.loss.{name}.{key}")
            if key.endswith("_steps")
            else value
            for key, value in fields.items()
        }
        with error_prefix("config.loss."):
            objectives.append(
                build_objective(name, pairs=pairs, vocabulary=vocabulary, **arguments)
            )
    if mix is not None:
        objectives.append(mix)
        if replaces and mix.ends_at is not None:
            objectives.append(build_clean_successor(settings.mix, mix.ends_at, pairs))
    for objective in objectives:
        objective.reads(model)  # refuses a model that lacks something
    return objectives


def build_vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """Return the tokenizer's ids by role."""
    borders = tokenizer.word_borders
    return Vocabulary(
        tokenizer.vocab_size,
        tokenizer.pad_id,
        tokenizer.mask_id,
        tokenizer.special_ids,
        start_id=tokenizer.cls_id,
        end_id=tokenizer.sep_id,
        continues=borders.continues.tobytes(),
        unfinished=borders.unfinished.tobytes(),
        articles=tokenizer.single_tokens(_ARTICLES),
    )


def check_objectives(objectives: Sequence[Objective], total_steps: int) -> None:
    """Raise a UserError if nothing is trained, at all or in the last step."""
    if not objectives:
        raise UserError(
            "config.loss: every weight is 0 and config.mix.mixer='none', so that nothing is trained; set"
            " config.loss.itc.weight=1"
        )
    if not objectives_at(objectives, total_steps - 1):
        raise UserError(
            "config.mix.until: no other loss has a weight, so that nothing is trained from there on; set"
            " config.loss.itc.weight=1, or config.mix.until='100%'"
        )
