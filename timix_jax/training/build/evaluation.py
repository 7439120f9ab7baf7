"""`config.eval`: the evaluation sets, their evaluators, and the weights that they measure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from timix_jax.data.sources import open_source
from timix_jax.data.tokenizers import Tokenizer
from timix_jax.errors import UserError, error_prefix
from timix_jax.evaluators import EvaluationInputs, Evaluator, build_evaluator, evaluator_class
from timix_jax.models.protocols import ImageTextModel

if TYPE_CHECKING:
    from timix_jax.training.build.settings import Settings


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """`config.eval`.

    Attributes:
      sets: `NAME=SOURCE` of each evaluation set.
      evaluators: names of the evaluators, run on all sets that they can use.
      options: evaluator → its settings.
      every: a duration.
      batch_size: images per batch.
      weights: "params" or "ema".
    """

    sets: tuple[str, ...]
    evaluators: tuple[str, ...]
    options: Mapping[str, Mapping[str, Any]]
    every: str
    batch_size: int
    weights: str

    @classmethod
    def read(cls, config: ConfigDict) -> EvaluationSettings:
        """Read the group."""
        return cls(**config.eval.to_dict())


def evaluated_part(settings: Settings) -> str:
    """Return the field of the state to evaluate: `params` or, for `eval.weights='ema'`, `ema_params`."""
    weights = settings.eval.weights
    if weights not in ("params", "ema"):
        raise UserError(f"config.eval.weights={weights!r}; use 'params' or 'ema'")
    if weights == "ema" and not settings.optim.ema:
        raise UserError("config.eval.weights='ema' needs config.optim.ema above 0")
    return "ema_params" if weights == "ema" else "params"


def build_evaluators(
    settings: Settings, model: ImageTextModel, tokenizer: Tokenizer, mesh: Mesh
) -> dict[str, list[Evaluator]]:
    """Build evaluation set → its evaluators, for every `NAME=SOURCE` of `config.eval.sets`."""
    built: dict[str, list[Evaluator]] = {}
    model = model.for_evaluation()
    for entry in settings.eval.sets:
        name, equals, spec = entry.partition("=")
        if not equals or not name or name in built or set("/:?") & set(name):
            raise UserError(
                f"config.eval.sets: {entry!r}; write NAME=SOURCE, each name once and without '/', ':' or '?'"
            )
        with error_prefix("config.eval.sets: "):
            source = open_source(spec)
        if spec in settings.data.train:
            logging.warning(
                "config.eval.sets: %r is among config.data.train: its figures say how well the model remembers, not how"
                " it fares on other data",
                entry,
            )
        if len(source) == 0:
            raise UserError(f"config.eval.sets: {entry!r} is empty")
        inputs = EvaluationInputs(
            model=model,
            source=source,
            tokenizer=tokenizer,
            mesh=mesh,
            image_size=settings.model.image.size,
            max_tokens=settings.model.text.max_tokens,
            batch_size=settings.eval.batch_size,
            max_regions=settings.regions.max_regions,
            score=settings.mix.score if settings.mix.enabled else "",
        )
        with error_prefix(f"config.eval, {name}: "):
            built[name] = [
                build_evaluator(kind, inputs, **settings.eval.options[kind])
                for kind in settings.eval.evaluators
                if _applies(evaluator_class(kind), inputs)
            ]
        if not built[name]:
            raise UserError(
                f"config.eval.evaluators={settings.eval.evaluators!r}: none can use the set {name!r}; name one"
                " that can, such as 'retrieval'"
            )
    return built


def check_evaluators(evaluators: Mapping[str, list[Evaluator]]) -> None:
    """Raise a UserError for a set whose captions or boxes show that an evaluator could not use it."""
    for name, several in evaluators.items():
        with error_prefix(f"config.eval, {name}: "):
            for evaluator in several:
                evaluator.check()


def _applies(kind: type[Evaluator], inputs: EvaluationInputs) -> bool:
    return kind.supports(inputs.model) and kind.applies_to(inputs.source)
