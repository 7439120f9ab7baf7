"""How towers of the same shape differ: activation, norms, pooling, masks and projection, as published weights need."""

from typing import Literal, NamedTuple

from timix_jax.errors import UserError
from timix_jax.models.transformer import ACTIVATIONS

Projection = Literal["linear", "biased", "none"]
ImagePool = Literal["cls", "gap", "map"]
TextPool = Literal["cls", "mean", "eot", "last"]

IMAGE_POOLS = ("cls", "gap", "map")
TEXT_POOLS = ("cls", "mean", "eot", "last")
PROJECTIONS = ("linear", "biased", "none")


class ImageVariant(NamedTuple):
    """Variant of the image tower; the defaults are those of ViT.

    Attributes:
      act: activation of the MLPs; empty for the model's.
      eps: epsilon of the norms; 0 for the usual 1e-6.
      ln_pre: a norm between positions and blocks (CLIP).
      projection: into the shared space: `linear`, `biased`, or `none` where the width is that of the space (SigLIP).
    """

    act: str = ""
    eps: float = 0.0
    ln_pre: bool = False
    projection: Projection = "linear"


class TextVariant(NamedTuple):
    """Variant of the text tower; the defaults are those of BERT.

    Attributes:
      act: activation of the MLPs; empty for the model's.
      eps: epsilon of the norms; 0 for the usual one, 1e-12 in BERT's order and 1e-6 with `pre_norm`.
      causal: no token attends to later ones (CLIP); padding comes last, so that nothing else needs a mask.
      pool: the caption's vector: the first token (`cls`), the mean of all tokens but padding (`mean`), the first token
        that ends a caption (`eot`), or the last position (`last`).
      pad_mask: tokens do not attend to padding. Without it, as in SigLIP, captions are padded to the full length, which
        the weights count on.
      projection: as the image tower's.
    """

    act: str = ""
    eps: float = 0.0
    causal: bool = False
    pool: TextPool = "cls"
    pad_mask: bool = True
    projection: Projection = "linear"


VIT, BERT = ImageVariant(), TextVariant()


def check_variants(
    image: ImageVariant, text: TextVariant, *, image_pool: str, widths: tuple[int, int], space: int
) -> None:
    """Raise a UserError for values that do not exist or do not fit each other.

    Args:
      image, text: the variants.
      image_pool: how the image tower pools.
      widths: of the image and the text tower.
      space: width of the shared space.
    """
    for field, value, known in (
        ("image.pool", image_pool, IMAGE_POOLS),
        ("image.act", image.act, ("", *ACTIVATIONS)),
        ("image.projection", image.projection, PROJECTIONS),
        ("text.pool", text.pool, TEXT_POOLS),
        ("text.act", text.act, ("", *ACTIVATIONS)),
        ("text.projection", text.projection, PROJECTIONS),
    ):
        if value not in known:
            shown = [repr(name) for name in known if name]
            raise UserError(
                f"model.{field}={value!r} is unknown; use {', '.join(shown[:-1])} or {shown[-1]}"
            )
    for tower, variant, width in (("image", image, widths[0]), ("text", text, widths[1])):
        if not 0 <= variant.eps < 1:
            raise UserError(
                f"model.{tower}.eps={variant.eps}: give a small number such as 1e-5, or 0"
            )
        if variant.projection == "none" and width != space:
            raise UserError(
                f"model.{tower}.projection='none' needs model.{tower}.width={width} to equal"
                f" model.embed_dim={space}; use 'linear'"
            )
    if text.causal and text.pool == "cls":
        raise UserError(
            "model.text.pool='cls' with model.text.causal=True: the first token sees no other; use 'eot'"
        )
