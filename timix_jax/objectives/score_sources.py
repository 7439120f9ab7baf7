"""Where the patch scores of a mixer come from (docs/method.md §2): a registry of functions of the model and the pass.

A source reads the clean pass where there is one and else runs just as much of the image tower as it needs, without a
gradient: the predictor's scores stop at its own block.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax

from timix_jax.errors import UserError
from timix_jax.mixing import scores
from timix_jax.models.dual_encoder import DualEncoder, ImageFeatures
from timix_jax.objectives.base import Array, Forward
from timix_jax.objectives.passes import Pass


@dataclasses.dataclass(frozen=True)
class ScoreSource:
    """A named score.

    Attributes:
      capture: the ViT block whose tokens it reads from the clean pass, or None.
      function: model and pass to scores (B, N).
      blocks: the first so many blocks that it runs by itself where there is no clean pass to read.
      predictor: whether it runs the patch predictor.
    """

    name: str
    capture: int | None
    function: Callable[[DualEncoder, Forward], Array]
    blocks: int = 0
    predictor: bool = False

    def passes(self, rows: int, *, clean: bool) -> Sequence[Pass]:
        """What it runs for `rows` images; `clean`: it reads the clean pass (`Forward.image` is given).

        Its last product (a cosine, one head's attention, the patches' projection) is left out: it is none of
        the parts that a `Pass` names, and under a tenth of a block.
        """
        blocks = 0 if clean else self.blocks
        return (Pass(rows=rows, gradient=False, blocks=blocks, predictor=self.predictor),)

    def __call__(self, model: DualEncoder, forward: Forward) -> Array:
        """Scores (B, N) float32, the higher the more the caption speaks of the patch; no gradient."""
        frozen = jax.lax.stop_gradient(
            (forward.params, forward.patches, forward.image, forward.text)
        )
        params, patches, image, text = frozen
        return self.function(
            model, forward._replace(params=params, patches=patches, image=image, text=text)
        )


def _tpp(model: DualEncoder, forward: Forward) -> Array:
    if forward.image is None:
        site = model.encode_site(forward.params, forward.patches)
    else:
        site = model.patch_tokens(forward.image.captured)
    return scores.from_logp(model.patch_logp(forward.params, site, forward.text.cls))


def _clean(model: DualEncoder, forward: Forward) -> ImageFeatures:
    return forward.image or model.encode_patches(forward.params, forward.patches)


def _similarity(model: DualEncoder, forward: Forward) -> Array:
    patches = model.project_patches(forward.params, _clean(model, forward).patches)
    return scores.from_similarity(patches, forward.text.embedding)


def _attention(model: DualEncoder, forward: Forward) -> Array:
    if forward.image is None:
        tokens = model.encode_prefix(forward.params, forward.patches, model.image.depth - 1)
    else:
        tokens = forward.image.captured
    return scores.from_attention(model.cls_attention(forward.params, tokens))


def _random(model: DualEncoder, forward: Forward) -> Array:
    batch, patches = forward.patches.shape[:2]
    return scores.random(forward.stream("scores"), batch, patches)


def _oracle(model: DualEncoder, forward: Forward) -> Array:
    return scores.from_boxes(forward.batch["boxes"], forward.batch["box_mask"], model.grid)


def build_score_source(name: str, model: DualEncoder) -> ScoreSource:
    """The source called `name`: tpp, similarity, attention (SMMix), random, or oracle (the boxes themselves)."""
    depth, site = model.image.depth, model.tpp_layer
    known = (
        ScoreSource("tpp", site, _tpp, blocks=site + 1, predictor=True),
        ScoreSource("similarity", None, _similarity, blocks=depth),
        # The input of the last block.
        ScoreSource("attention", depth - 2, _attention, blocks=depth - 1),
        ScoreSource("random", None, _random),
        ScoreSource("oracle", None, _oracle),
    )
    sources = {source.name: source for source in known}
    if name not in sources:
        raise UserError(f"mix.score={name!r} is unknown; use one of {', '.join(sources)}")
    if name == "attention" and model.pool != "cls":
        raise UserError("mix.score='attention' needs a CLS token: set model.image.pool='cls'")
    return sources[name]
