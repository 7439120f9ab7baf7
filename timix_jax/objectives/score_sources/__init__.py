"""Sources of the patch scores that mixers read (docs/method.md §2).

A new source is one file with a frozen dataclass that inherits from `base.ScoreSource`, and one line in `SCORES`;
`config.mix.score` chooses it. No gradient flows through a source: it declares its features as constants.
"""

from timix_jax.errors import UserError
from timix_jax.models.protocols import ImageTextModel
from timix_jax.objectives.score_sources.attention import Attention
from timix_jax.objectives.score_sources.base import ScoreSource
from timix_jax.objectives.score_sources.controls import Centre, Clutter, Oracle, Random
from timix_jax.objectives.score_sources.gradient import Gradient
from timix_jax.objectives.score_sources.posterior import Posterior
from timix_jax.objectives.score_sources.predictor import Predictor
from timix_jax.objectives.score_sources.similarity import Similarity
from timix_jax.objectives.score_sources.single_patch import SinglePatch
from timix_jax.objectives.score_sources.sums import Sum

__all__ = ["SCORES", "ScoreSource", "build_score_source"]

SCORES: dict[str, type[ScoreSource]] = {
    "tpp": Predictor,
    "single_patch": SinglePatch,
    "posterior": Posterior,
    "similarity": Similarity,
    "gradient": Gradient,
    "attention": Attention,
    "random": Random,
    "centre": Centre,
    "oracle": Oracle,
    "clutter": Clutter,
}

_MODIFIERS = {"ema": "teacher", "shuffled": "shuffled"}


def build_score_source(name: str, model: ImageTextModel) -> ScoreSource:
    """Return the source that `mix.score` names, checked against the model.

    Args:
      name: a key of `SCORES`; several of them joined by `+` add their z-scores. The prefix `ema:` reads the moving
        average of the weights, `shuffled:` another image's caption.
      model: the model whose scores they are.

    Raises:
      UserError: a name is unknown, or the model lacks what a source reads.

    **Example:** `build_score_source("tpp+ema:single_patch", model)`
    """
    parts = [_one_source(part) for part in name.split("+")]
    source = parts[0] if len(parts) == 1 else Sum(parts=tuple(parts))
    source.reads(model, "clean")
    return source


def _one_source(text: str) -> ScoreSource:
    *modifiers, name = text.split(":")
    if name not in SCORES:
        raise UserError(f"mix.score={name!r} is unknown; use one of {', '.join(SCORES)}")
    for modifier in modifiers:
        if modifier not in _MODIFIERS:
            raise UserError(
                f"mix.score={text!r}: the prefix {modifier!r} is unknown; use {' or '.join(_MODIFIERS)}"
            )
    return SCORES[name](**{_MODIFIERS[modifier]: True for modifier in modifiers})
